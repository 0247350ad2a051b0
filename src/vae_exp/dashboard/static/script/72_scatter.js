// Any metric or number of a config against another, a point for each setting; at first distortion over rate.

const PLANES = ["val", "test", "train"].map((split) => [`${split}/rate`, `${split}/distortion`]);
const isPlane = (x, y) => PLANES.some(([rate, distortion]) => x === rate && y === distortion);

function scatterIn(chart) {
  const title = el("h2");
  const choices = el("div", { class: "controls" });
  const caption = el("p", { class: "quiet", id: "caption-plane" });
  const legend = el("p", { class: "legend", id: "legend-plane" });
  const panel = { figure: null };
  const box = el(
    "section",
    { class: "panel" },
    panelHead(
      title,
      saveButtons("plane", "the scatter plot", () => panel.figure),
    ),
    choices,
    caption,
    legend,
    chart,
  );
  let signature = "";
  const update = (list, keys, tints, key) => {
    const names = [...metricNames(list), ...keys.filter((key) => isNumeric(list, key)), "runtime"];
    const [first, second] = PLANES.find(([a, b]) => finite(list, a, b).length) ?? ["runtime", mainMetric(list)];
    const [x, y] = [state.across || first, state.up || second];
    const now = JSON.stringify([names, x, y, state.by, hasBest(list)]);
    if (now !== signature && !isInUse(choices)) {
      const pick = (label, name, chosen) =>
        choice(
          label,
          names.map((key) => [key, labelOfMetric(list, key)]),
          chosen,
          (key) => setState({ [name]: key }),
        );
      refill(choices, pick("x", "across", x), pick("y", "up", y));
      signature = now;
    }
    title.textContent = isPlane(x, y)
      ? "Rate and distortion"
      : `${labelOfMetric(list, y)} against ${labelOfMetric(list, x)}`;
    const meaning =
      isSeed(x) || isSeed(y)
        ? ""
        : meaningOf(
            finite(list, x),
            keys.filter((key) => !isSeed(key)),
            y,
          );
    caption.textContent = [
      meaning,
      meaning.startsWith("mean") ? "bars: standard errors over seeds" : "",
      isPlane(x, y) ? "dotted: the same −ELBO" : "",
    ]
      .filter(Boolean)
      .join("; ");
    const looks = looksOf(list, tints, key);
    refill(
      legend,
      tints.map(({ label, style }) => el("span", {}, swatch(style), label)),
      looks.shapes.map(({ label }, index) => el("span", {}, `${"●■◆▲"[index]} ${label}`)),
    );
    panel.figure = drawScatter(chart, list, keys, x, y, looks);
  };
  return { box, update };
}

// Colours by one key and symbols by another one, if both have few values.
function looksOf(list, tints, key) {
  const shapes =
    tints.length && !isSeed(key) && valuesOf(list, key).length <= SYMBOLS.length ? styledValues(list, key) : [];
  const indexOf = (values, run) =>
    Math.max(
      0,
      values.findIndex(({ members }) => members.includes(run)),
    );
  return {
    shapes,
    of: (some) =>
      tints.length ? some.map((run) => ({ colour: indexOf(tints, run), dash: indexOf(shapes, run) })) : stylesOf(some),
  };
}

function axisOfScatter(list, key, estimates) {
  const values = [...new Set(estimates.map((item) => item.mean))].sort((a, b) => a - b);
  return list.every((run) => key in run.config) && isWide(values[0], values.at(-1))
    ? axisOf(values)
    : { range: rangeOf(estimates) };
}

function drawScatter(chart, list, keys, x, y, looks) {
  const measured = finite(list, x, y);
  if (!measured.length) {
    clear(chart);
    return null;
  }
  const settings = groupsBy(measured, isSeed(x) || isSeed(y) ? (run) => run.key : settingOf);
  const [across, up] = [x, y].map((key) => settings.map((members) => estimateOf(members, key)));
  const [xs, ys] = [across, up].map((estimates) => estimates.map((item) => item.mean));
  const styles = looks.of(settings.map(([run]) => run));
  const [xaxis, yaxis] = [axisOfScatter(measured, x, across), axisOfScatter(measured, y, up)];
  const [xName, yName] = [x, y].map((key) => labelOfMetric(list, key));
  const [xTitle, yTitle] = [x, y].map((key) =>
    key === "runtime" ? "runtime (s)" : withUnit(key, labelOfMetric(list, key)),
  );
  const formats = [
    [x, xs],
    [y, ys],
  ].map(([key, numbers]) => hoverFormat(key, numbers));
  const sum = isPlane(x, y) ? "<br>−ELBO %{customdata:,.3f}" : "";
  const points = {
    type: "scatter",
    mode: "markers",
    x: xs,
    y: ys,
    error_x: errorBars(across),
    error_y: errorBars(up),
    text: settings.map((members) => escaped(groupLabel(members, keys))),
    customdata: xs.map((value, index) => value + ys[index]),
    hovertemplate: `%{text}<br>${escaped(xName)} %{x:${formats[0]}}<br>${escaped(yName)} %{y:${formats[1]}}${sum}<extra></extra>`,
    marker: {
      size: 9,
      color: styles.map((style) => cssOf(style.colour)),
      symbol: styles.map((style) => SYMBOLS[style.dash]),
    },
  };
  const equal = isPlane(x, y) ? linesOfEqualSum(xaxis.range, yaxis.range) : [];
  draw(
    chart,
    [...equal, points],
    layoutOf(xTitle, yTitle, {
      xaxis,
      yaxis,
      uirevision: `${x} ${y}`,
      margin: { l: 52, r: isPlane(x, y) ? 48 : 12, t: 8, b: 40 },
    }),
  );
  const labels = settings.map((members) => groupLabel(members, keys));
  const lines = up.map((estimate, index) =>
    pointOfEstimate(xs[index], estimate, labels[index], labels[index], styles[index]),
  );
  return {
    title: `${yName} against ${xName}`,
    xTitle,
    yTitle,
    lines,
    spread: "standard error",
    log: { x: xaxis.type === "log", y: yaxis.type === "log" },
    range: { x: xaxis.range, y: yaxis.range },
  };
}

// From the lowest end of a bar to the highest, with some room.
function rangeOf(estimates) {
  const errors = estimates.map(({ error }) => (Number.isFinite(error) ? error : 0));
  const low = Math.min(...estimates.map((item, index) => item.mean - errors[index]));
  const high = Math.max(...estimates.map((item, index) => item.mean + errors[index]));
  const isConstant = high - low <= 1e-9 * Math.max(Math.abs(low), Math.abs(high)); // but for rounding
  const room = 0.08 * ((isConstant ? Math.abs(high) : high - low) || 1);
  return [low - room, high + room];
}

// Lines from edge to edge of the plane on which x + y is one of a few round numbers.
function linesOfEqualSum([left, right], [bottom, top]) {
  const step = roundStep((right + top - left - bottom) / 6);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const sums = [...Array(8).keys()].map((index) => (Math.ceil((left + bottom) / step) + index) * step);
  return sums.flatMap((sum) => {
    const [start, end] = [Math.max(left, sum - top), Math.min(right, sum - bottom)];
    if (end - start < 0.1 * (right - left) && end - start < 0.1 * (top - bottom)) return [];
    const side =
      end === right
        ? { text: ["", ` ${sum.toFixed(digits)}`], textposition: "middle right" }
        : { text: ["", `${sum.toFixed(digits)} `], textposition: "top right" };
    return {
      type: "scatter",
      mode: "lines+text",
      x: [start, end],
      y: [sum - start, sum - end],
      line: { color: colour("line"), width: 1, dash: "dot" },
      ...side,
      cliponaxis: false,
      textfont: { size: 10, color: colour("quiet") },
      hovertemplate: `−ELBO ${sum.toFixed(digits)}<extra></extra>`,
    };
  });
}
