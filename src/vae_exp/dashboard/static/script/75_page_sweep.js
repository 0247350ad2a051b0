// The effect of a sweep's keys on its metrics.

const MOST_CELLS = 30; // of a row or column of the heat map at first
const MOST_STEPS = 30; // values of a key that a line joins, where each has a single run

function pageSweep(main) {
  const controls = el("div", { class: "controls" });
  const message = el("p", { class: "quiet", role: "status" });
  const grid = el("div", { class: "grid" });
  const charts = Object.fromEntries(["key", "plane"].map((name) => [name, el("div", { class: "chart", id: `chart-${name}` })]));
  const [heat, lines, share] = ["heat", "parallel", "importance"].map((id) => el("div", { id }));
  const titles = Object.fromEntries(["key", "heat", "lines", "share"].map((name) => [name, el("h2")]));
  const captions = Object.fromEntries(["key", "heat"].map((name) => [name, el("p", { class: "quiet", id: `caption-${name}` })]));
  const legend = el("p", { class: "legend", id: "legend-key" });
  const scatter = scatterIn(charts.plane);
  const figures = {};
  const head = (name, text) => panelHead(titles[name], saveButtons(name, text, () => figures[name]));
  refill(grid,
    el("section", { class: "panel" }, head("key", "the metric against a key"), captions.key, legend, charts.key), el("section", { class: "panel" }, head("heat", "the heat map"), captions.heat, heat),
    scatter.box, el("section", { class: "panel" }, head("share", "the importance of keys"), share),
    el("section", { class: "panel whole" }, head("lines", "parallel coordinates"), lines));
  refill(main, controls, message, grid);
  let menuSignature = "";

  return () => {
    const chosen = chosenRuns();
    const sweep = currentSweep(chosen);
    const all = chosen.filter((run) => sweep === ALL_SWEEPS || groupIn(run) === sweep);
    const list = all.filter(isFinished);
    const keys = varyingKeys(list);
    const metric = mainMetric(list);
    const plain = keys.filter((key) => !isSeed(key));
    const few = plain.filter((key) => valuesOf(list, key).length <= MOST_CELLS); // a heat map needs cells that can be read
    const pick = (key, some, index) => (keys.includes(key) ? key : some[index] ?? keys[index] ?? "");
    const [key, rows, cols] = [pick(state.key, plain, 0), pick(state.rows, few, 0), pick(state.cols, few, 1)];
    const signature = JSON.stringify([keys, metricNames(list), metric, key, rows, cols, state.others, state.by, hasBest(list), sweep, sweepsOf(chosen)]);
    if (signature !== menuSignature && !isInUse(controls)) {
      refill(controls, sweepChoice(chosen, sweep),
        epochChoice(list), choice("Metric", metricNames(list).map((name) => [name, labelOfMetric(list, name)]), metric, (chosen) => setState({ metric: chosen })),
        choice("Key", keys, key, (chosen) => setState({ key: chosen })),
        choice("Heat map rows", keys, rows, (chosen) => setState({ rows: chosen })),
        choice("columns", keys, cols, (chosen) => setState({ cols: chosen })), othersChoice());
      menuSignature = signature;
    }
    controls.hidden = !metric && !state.sweep;
    grid.hidden = !metric || !keys.length;
    message.textContent = !chosen.length ? noRunText() : !metric ? "There are no metrics yet." : keys.length ? statusOf(all, list, metric) : `${list.length} of ${all.length} runs have finished; they do not differ in their config.`;
    titles.key.textContent = `${labelOfMetric(list, metric)} against ${key}`;
    titles.heat.textContent = `${labelOfMetric(list, metric)} over ${rows} × ${cols}`;
    titles.lines.textContent = "Parallel coordinates";
    titles.share.textContent = "Importance of keys (approximate)";
    const second = secondKey(list, key, rows, cols);
    const tints = styledValues(list, second);
    captions.key.textContent = keyCaption(list, key, second, metric, plain);
    captions.heat.textContent = meaningOf(list, [rows, cols], metric);
    refill(legend, tints.map(({ label, style }) => el("span", {}, swatch(style), label)));
    figures.key = drawAgainstKey(charts.key, list, { key, second, tints, metric, keys });
    figures.heat = drawHeat(heat, list, rows, cols, metric);
    scatter.update(list, keys, tints, key);
    figures.lines = drawParallel(lines, list, keys, metric);
    figures.share = drawImportance(share, list, keys, metric);
  };
}

// Groups of W&B, the latest first; a sweep is one, and runs without a group are one.
const [ALL_SWEEPS, NO_GROUP] = ["*", "-"];
const groupIn = (run) => run.group || NO_GROUP;
function sweepsOf(list) {
  const start = (members) => members.reduce((latest, run) => Math.max(latest, run.started), 0);
  const groups = groupsBy(list, groupIn).sort((one, other) => start(other) - start(one));
  return groups.map((members) => ({ name: groupIn(members[0]), size: members.length }));
}

// Without a choice the latest sweep of several jobs, unless runs are selected.
function currentSweep(list) {
  if (state.sweep) return state.sweep;
  const selected = new Set(listOf(state.selected));
  const sweeps = sweepsOf(list);
  const latest = sweeps.find(({ name, size }) => name !== NO_GROUP && size > 1);
  return sweeps.length > 1 && latest && !list.some((run) => selected.has(run.key)) ? latest.name : ALL_SWEEPS;
}

function sweepChoice(list, chosen) {
  const sweeps = sweepsOf(list).map(({ name, size }) => [name, `${name === NO_GROUP ? "no group" : name} (${size})`]);
  return sweeps.length > 1 || chosen !== ALL_SWEEPS ? choice("Sweep", [[ALL_SWEEPS, "all"], ...sweeps], chosen, (sweep) => setState({ sweep, brush: "" })) : null;
}

function statusOf(all, list, metric) {
  const groups = new Set(list.map((run) => run.group));
  const parts = [`${list.length}${all.length > list.length ? ` of ${all.length}` : ""} runs have finished`, ofTest(metric) || (labelOfMetric(list, metric) === metric ? `the last value of ${metric}` : `${metric} of the best epoch`),
    groups.size > 1 ? `these are ${groups.size} sweeps or groups: choose one` : ""];
  return asSentences(parts, comparisonHint(list));
}

const isNumeric = (list, key) => list.every((run) => typeof run.config[key] === "number");

// Runs with the same setting, and the same seed where seeds are shown.
const settingsAt = (list, key) => groupsBy(list, (run) => `${settingOf(run)}${isSeed(key) ? textBy(run, key) : ""}`);
const settingLabel = (members, keys) => escaped(groupLabel(members, keys));
const errorBars = (estimates) => ({ type: "data", array: estimates.map(({ error }) => (Number.isFinite(error) ? error : 0)), thickness: 1, width: 3, color: colour("line") });

// An estimate as a line of one point of a figure.
const pointOfEstimate = (x, { members, mean: y, error }, label, legend, style) => ({ x: [x], y: [y], sd: [Number.isFinite(error) ? error : null], n: [members.length], label, legend, style });

// The other key of the heat map decides the colours against a key, if it has few values.
function secondKey(list, key, rows, cols) {
  const second = cols === key ? rows : cols;
  return second && second !== key && !isSeed(second) && valuesOf(list, second).length <= COLOURS ? second : "";
}

function styledValues(list, second) {
  const values = second ? valuesOf(list, second) : [];
  return values.map((value, index) => { const members = list.filter((run) => textBy(run, second) === value); return { value, label: labelBy(members[0], [second]), style: { colour: index, dash: 0 }, members }; });
}

function keyCaption(list, key, second, metric, plain) {
  const hasLines = isNumeric(list, key);
  const [one, several] = [meaningOf(list, [...plain, key], metric), meaningOf(list, hasLines && second ? [key, second] : [key], metric)];
  const parts = [`points: ${one}`, one.startsWith("mean") ? "bars: standard errors over seeds" : "", several === one ? "" : `${!hasLines ? "dashes" : second ? "lines" : "line"}: ${several.split("; ").at(-1)}`];
  return parts.filter(Boolean).join("; ");
}

// As the axes of `sweep plot`: logarithmic where values are far apart, a tick for each of a few.
const isWide = (low, high) => low > 0 && high / low >= 8;

function axisOf(values) {
  const [low, high] = [values[0], values.at(-1)];
  const log = isWide(low, high);
  const at = values.map((value) => (log ? Math.log10(value) : value));
  const isApart = at.every((item, index) => !index || item - at[index - 1] >= 0.04 * (at.at(-1) - at[0]));
  const few = values.length <= 8 && values.every((value) => String(value).length <= 8) && isApart;
  const ticks = few ? { tickvals: values, ticktext: values.map(String) } : log ? { dtick: high / low >= 100 ? 1 : "D2", exponentformat: "power" } : {};
  return { type: log ? "log" : "linear", ...ticks };
}

function drawAgainstKey(chart, list, { key, second, tints, metric, keys }) {
  const measured = finite(list, metric).filter((run) => key in run.config);
  if (!key || !measured.length) { clear(chart); return null; }
  const numeric = isNumeric(measured, key);
  const order = valuesOf(measured, key);
  const estimates = settingsAt(measured, key).map((members) => estimateOf(members, metric));
  const valueIn = ({ members: [run] }) => tints.find(({ value }) => value === textBy(run, second));
  const styles = second ? estimates.map((item) => valueIn(item).style) : stylesOf(estimates.map(({ members }) => members[0]));
  const labels = estimates.map(({ members }) => groupLabel(members, keys));
  const xOf = (run) => (numeric ? run.config[key] : escaped(textBy(run, key)));
  const points = { type: "scatter", mode: "markers", x: estimates.map(({ members }) => xOf(members[0])), y: estimates.map((item) => item.mean), error_y: errorBars(estimates),
    text: labels.map(escaped), hovertemplate: `%{text}<br>%{y:${hoverFormat(metric, estimates.map((item) => item.mean))}}<extra></extra>`, marker: { color: styles.map((style) => cssOf(style.colour)), symbol: styles.map((style) => SYMBOLS[style.dash]), size: 8 } };
  const means = order.length > MOST_STEPS && order.length === measured.length ? [] : meansAgainst(measured, order, { key, metric, values: numeric ? tints : [] });
  const lines = means.map(({ style, x, y }) => ({ type: "scatter", mode: numeric ? "lines" : "markers", x: numeric ? x.map(Number) : x.map(escaped), y, hoverinfo: "skip",
    line: { color: cssOf(style.colour), dash: style.dash ? "dot" : "solid", width: 1.8 }, marker: { symbol: "line-ew-open", size: 30, color: colour("ink"), line: { width: 2 } } }));
  const axis = numeric ? axisOf(order.map(Number)) : { type: "category", categoryorder: "array", categoryarray: order.map(escaped) };
  draw(chart, [...lines, points], layoutOf(key, withUnit(metric, labelOfMetric(list, metric)), { xaxis: axis, uirevision: `${key}${metric}` }));
  return figureOfKey(list, key, metric, { numeric, order, means, estimates, styles, labels, legends: second ? estimates.map((item) => valueIn(item).label) : labels, isLog: axis.type === "log" });
}

// The mean at each value of a key, of all runs or for each value of a second one.
function meansAgainst(measured, order, { key, metric, values }) {
  const all = { label: "mean", style: { colour: "#7d848d", dash: 2 }, members: measured };
  return (values.length ? values : [all]).map(({ label, style, members }) => {
    const means = order.map((value) => [value, combined(members.filter((run) => textBy(run, key) === value), metric)]).filter(([, item]) => item);
    return { label, style, x: means.map(([value]) => value), y: means.map(([, item]) => item.mean) };
  });
}

function figureOfKey(list, key, metric, { numeric, order, means, estimates, styles, labels, legends, isLog }) {
  const place = (text) => (numeric ? Number(text) : order.indexOf(text));
  const points = estimates.map((estimate, index) => pointOfEstimate(place(textBy(estimate.members[0], key)), estimate, labels[index], legends[index], styles[index]));
  const lines = means.flatMap(({ label, style, x, y }) => {
    const ofMean = { label, legend: label, sd: null, n: null, style };
    return numeric ? [{ ...ofMean, x: x.map(Number), y }] : x.map((text, index) => ({ ...ofMean, x: [place(text)], y: [y[index]] }));
  });
  return { title: `${labelOfMetric(list, metric)} against ${key}`, xTitle: key, yTitle: withUnit(metric, labelOfMetric(list, metric)), lines: [...lines, ...points], spread: "standard error",
    categories: numeric ? null : order, log: { x: isLog, y: false }, range: { x: numeric ? null : [-0.5, order.length - 0.5], y: null } };
}

const HEAT = { height: 304, top: 6, bottom: 40 };

// A cell for each pair of values, coloured as the paths of parallel coordinates.
function drawHeat(box, list, rows, cols, metric) {
  const measured = finite(list, metric).filter((run) => rows in run.config && cols in run.config);
  if (!rows || !cols || rows === cols || !measured.length) { refill(box); return null; }
  const [down, across] = [valuesOf(measured, rows), valuesOf(measured, cols)];
  const estimateIn = (row, col) => combined(measured.filter((run) => textBy(run, rows) === row && textBy(run, cols) === col), metric);
  const cells = down.flatMap((row, j) => across.map((col, i) => ({ row, col, j, i, ...estimateIn(row, col) }))).filter((cell) => "mean" in cell);
  const title = labelOfMetric(list, metric);
  const digits = decimalsOf(metric, cells.map((cell) => cell.mean));
  const widthOf = (values) => Math.max(...values.map((value) => textWidth(cut(value, 14))));
  const left = 34 + widthOf(down);
  const ends = [Math.min, Math.max].map((end) => end(...cells.map((cell) => cell.mean)));
  const right = 26 + Math.max(...ends.map((value) => textWidth(fixed(value, digits))));
  const { height, top, bottom } = HEAT;
  const width = Math.max(box.clientWidth, left + right + 90);
  const [wide, high] = [(width - left - right) / across.length, (height - top - bottom) / down.length];
  const placeOf = (value) => (ends[1] > ends[0] ? (value - ends[0]) / (ends[1] - ends[0]) : 0.5);
  const [x, y] = [(index) => left + index * wide, (index) => height - bottom - (index + 1) * high];
  const hasTexts = cells.every((cell) => textWidth(fixed(cell.mean, digits)) + 14 < wide) && high > 24;
  const textIn = ({ i, j }, text) => [
    svg("rect", { class: "label", x: x(i) + (wide - textWidth(text)) / 2 - 4, y: y(j) + high / 2 - 9, width: textWidth(text) + 8, height: 18, rx: 3 }),
    svg("text", { x: x(i) + wide / 2, y: y(j) + high / 2 + 4, "text-anchor": "middle" }, text)];
  const cellOf = (cell) => svg("g", {}, svg("title", {}, `${rows} ${cell.row}, ${cols} ${cell.col}: ${withError(cell, digits)}`),
    svg("rect", { x: x(cell.i) + 1, y: y(cell.j) + 1, width: Math.max(1, wide - 2), height: Math.max(1, high - 2), style: `fill: ${cssOf({ at: placeOf(cell.mean) })}`, "data-at": placeOf(cell.mean), "data-of": "fill" }),
    hasTexts ? textIn(cell, fixed(cell.mean, digits)) : null);
  const labels = (values, size, room, draw) => values.map((value, index) => (index % Math.ceil(size / room) ? null : draw(cut(value, 14), index)));
  const drawing = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${title} over ${rows} and ${cols}` }, cells.map(cellOf),
    labels(down, 14, high, (text, index) => svg("text", { x: left - 5, y: y(index) + high / 2 + 4, "text-anchor": "end" }, text)),
    labels(across, widthOf(across), wide, (text, index) => svg("text", { x: x(index) + wide / 2, y: height - bottom + 15, "text-anchor": "middle" }, text)),
    svg("text", { x: x(across.length / 2), y: height - 6, "text-anchor": "middle" }, cols),
    svg("text", { transform: `translate(14,${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, rows),
    rampBar(width - right + 8, top, height - bottom),
    [...new Set(ends)].map((value) => svg("text", { x: width - right + 20, y: height - bottom - placeOf(value) * (height - bottom - top - 10), class: "quiet" }, fixed(value, digits))));
  refill(box, drawing);
  const table = [[rows, cols, withUnit(metric, title), "standard error"], ...cells.map((cell) => [cell.row, cell.col, textOf(cell.mean), Number.isFinite(cell.error) ? textOf(cell.error) : ""])];
  return { title: `${title} over ${rows} and ${cols}`, drawing, table };
}

const RUNS_FOR_IMPORTANCE = 10;

// The share of the metric's variance between the values of a key, less what as many random groups would have: of the
// variance that no key explains, or, where the keys together explain all, of the variance within the values (adjusted
// correlation ratio). A key with many numbers has the quarters of their range as values.
function drawImportance(box, list, keys, metric) {
  const measured = finite(list, metric);
  if (measured.length < RUNS_FOR_IMPORTANCE) { refill(box, el("p", { class: "quiet" }, `From ${RUNS_FOR_IMPORTANCE} finished runs on; there are ${measured.length}.`)); return null; }
  const together = new Map(keysTogether(measured, keys).map((some) => [some[0], some]));
  const shares = sharesOf(measured, [...together.keys()], metric).sort((a, b) => b[1] - a[1]).slice(0, 12);
  const several = shares.map(([key]) => together.get(key)).filter((some) => some.length > 1);
  const drawing = barChart(shares.map(([key, share]) => [together.get(key).length > 1 ? `${key}, …` : key, share]), (share) => `${Math.round(100 * share)} %`, 1);
  refill(box, drawing, several.map((some) => el("p", { class: "quiet" }, `Always change together: ${some.join(", ")}.`)),
    el("p", { class: "quiet" }, `Variance of ${metric} that goes with each key alone, over ${measured.length} finished runs. Approximate: keys that only matter together are not seen.`));
  return { title: `importance of keys for ${metric}`, drawing, table: [["key", `share of the variance of ${metric}`], ...shares.map(([key, share]) => [together.get(key).join(", "), textOf(share)])] };
}

function sharesOf(list, keys, metric) {
  const n = list.length;
  const numbers = list.map((run) => number(run, metric));
  const all = mean(numbers);
  const total = numbers.reduce((sum, item) => sum + (item - all) ** 2, 0);
  const effects = keys.map((key) => ({ key, ...betweenValues(list, key, numbers, all) })).filter(({ values }) => values > 1 && values < n);
  if (total === 0) return [];
  const unexplained = total - effects.reduce((sum, { between }) => sum + between, 0);
  const freedom = n - 1 - effects.reduce((sum, { values }) => sum + values - 1, 0);
  return effects.map(({ key, between, values }) => {
    const noise = unexplained > 0 && freedom > 0 ? unexplained / freedom : (total - between) / (n - values);
    return [key, Math.max(0, (between - (values - 1) * noise) / total)];
  });
}

// The sum of squares between the values of a key, and their number.
function betweenValues(list, key, numbers, all) {
  let classes = list.map((run) => textBy(run, key));
  if (new Set(classes).size > 6 && isNumeric(list, key)) {
    const sorted = list.map((run) => run.config[key]).sort((a, b) => a - b);
    classes = list.map((run) => Math.floor((4 * sorted.indexOf(run.config[key])) / sorted.length));
  }
  const groups = new Map();
  classes.forEach((item, index) => groups.set(item, [...(groups.get(item) ?? []), numbers[index]]));
  const between = [...groups.values()].reduce((sum, group) => sum + group.length * (mean(group) - all) ** 2, 0);
  return { between, values: groups.size };
}

function barChart(pairs, format, most = Math.max(...pairs.map(([, value]) => value), 1e-12)) {
  const longest = Math.min(28, Math.max(...pairs.map(([name]) => name.length)));
  const left = 12 + 7.2 * longest;
  const step = 22;
  const height = pairs.length * step + 6;
  return svg("svg", { width: left + 330, height, viewBox: `0 0 ${left + 330} ${height}`, role: "img", "aria-label": pairs.map(([name, value]) => `${name} ${format(value)}`).join(", ") },
    pairs.map(([name, value], index) => [
      svg("text", { x: left - 6, y: index * step + 17, "text-anchor": "end" }, cut(name, 28)),
      svg("rect", { class: "bar", x: left, y: index * step + 5, width: Math.max(1, 250 * (value / most)), height: step - 8 }, svg("title", {}, `${name}: ${format(value)}`)),
      svg("text", { class: "quiet", x: left + Math.max(1, 250 * (value / most)) + 6, y: index * step + 17 }, format(value)),
    ]));
}
