// The effect of a sweep's keys on its metrics.

const MOST_CELLS = 30; // of a row or column of the heat map at first

function pageSweep(main) {
  const controls = el("div", { class: "controls" });
  const message = el("p", { class: "quiet", role: "status" });
  const grid = el("div", { class: "grid" });
  const charts = Object.fromEntries(
    ["key", "plane"].map((name) => [name, el("div", { class: "chart", id: `chart-${name}` })]),
  );
  const [heat, lines, share] = ["heat", "parallel", "importance"].map((id) => el("div", { id }));
  const titles = Object.fromEntries(["key", "heat", "lines", "share"].map((name) => [name, el("h2")]));
  const captions = Object.fromEntries(
    ["key", "heat"].map((name) => [name, el("p", { class: "quiet", id: `caption-${name}` })]),
  );
  const legend = el("p", { class: "legend", id: "legend-key" });
  const scatter = scatterIn(charts.plane);
  const figures = {};
  const head = (name, text) =>
    panelHead(
      titles[name],
      saveButtons(name, text, () => figures[name]),
    );
  refill(
    grid,
    el("section", { class: "panel" }, head("key", "the metric against a key"), captions.key, legend, charts.key),
    el("section", { class: "panel" }, head("heat", "the heat map"), captions.heat, heat),
    scatter.box,
    el("section", { class: "panel" }, head("share", "the importance of keys"), share),
    el("section", { class: "panel whole" }, head("lines", "parallel coordinates"), lines),
  );
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
    const pick = (key, some, index) => (keys.includes(key) ? key : (some[index] ?? keys[index] ?? ""));
    const [key, rows, cols] = [pick(state.key, plain, 0), pick(state.rows, few, 0), pick(state.cols, few, 1)];
    const signature = JSON.stringify([
      keys,
      metricNames(list),
      metric,
      key,
      rows,
      cols,
      state.others,
      state.by,
      hasBest(list),
      sweep,
      sweepsOf(chosen),
    ]);
    if (signature !== menuSignature && !isInUse(controls)) {
      refill(
        controls,
        sweepChoice(chosen, sweep),
        epochChoice(list),
        choice(
          "Metric",
          metricNames(list).map((name) => [name, labelOfMetric(list, name)]),
          metric,
          (chosen) => setState({ metric: chosen }),
        ),
        choice("Key", keys, key, (chosen) => setState({ key: chosen })),
        choice("Heat map rows", keys, rows, (chosen) => setState({ rows: chosen })),
        choice("columns", keys, cols, (chosen) => setState({ cols: chosen })),
        othersChoice(),
      );
      menuSignature = signature;
    }
    controls.hidden = !metric && !state.sweep;
    grid.hidden = !metric || !keys.length;
    message.textContent = !chosen.length
      ? noRunText()
      : !metric
        ? "There are no metrics yet."
        : keys.length
          ? statusOf(all, list, metric)
          : `${list.length} of ${all.length} runs have finished; they do not differ in their config.`;
    titles.key.textContent = `${labelOfMetric(list, metric)} against ${key}`;
    titles.heat.textContent = `${labelOfMetric(list, metric)} over ${rows} × ${cols}`;
    titles.lines.textContent = "Parallel coordinates";
    titles.share.textContent = "Importance of keys (approximate)";
    const second = secondKey(list, key, rows, cols);
    const tints = styledValues(list, second);
    captions.key.textContent = keyCaption(list, key, second, metric, plain);
    captions.heat.textContent = meaningOf(list, [rows, cols], metric);
    refill(
      legend,
      tints.map(({ label, style }) => el("span", {}, swatch(style), label)),
    );
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
  return sweeps.length > 1 || chosen !== ALL_SWEEPS
    ? choice("Sweep", [[ALL_SWEEPS, "all"], ...sweeps], chosen, (sweep) => setState({ sweep, brush: "" }))
    : null;
}

function statusOf(all, list, metric) {
  const groups = new Set(list.map((run) => run.group));
  const parts = [
    `${list.length}${all.length > list.length ? ` of ${all.length}` : ""} runs have finished`,
    ofTest(metric) ||
      (labelOfMetric(list, metric) === metric ? `the last value of ${metric}` : `${metric} of the best epoch`),
    groups.size > 1 ? `these are ${groups.size} sweeps or groups: choose one` : "",
  ];
  return asSentences(parts, comparisonHint(list));
}
