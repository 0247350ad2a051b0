// Panels of lines: drawn by Plotly, with a zoom that is part of the address, and saved as SVG and CSV.
//
// A line is `{ label, legend, style, metric, key, x, y, raw, sd, n }`: `raw` are values before smoothing or null, `sd` and
// `n` of means, else null; `key` is a run to isolate.

const FIELD = "\u001e";
const MOST_ZOOMS = 12;
const MOST_COUNTED = 8; // epochs, steps or images on an axis that has a tick for each

const zooms = () =>
  new Map(
    listOf(state.zoom)
      .map((text) => text.split(FIELD))
      .filter((parts) => parts.length === 3)
      .map(([id, x, y]) => [id, { x: rangeFrom(x), y: rangeFrom(y) }]),
  );
const rangeFrom = (text) => {
  const ends = text.split(" ").map(Number);
  return text && ends.length === 2 && ends.every(Number.isFinite) ? ends : null;
};

function withZoom(id, zoom) {
  const now = zooms();
  now.delete(id);
  if (zoom.x || zoom.y) now.set(id, zoom);
  const textOfRange = (range) => (range ? range.map((end) => Number(end.toPrecision(6))).join(" ") : "");
  return {
    zoom: asList(
      [...now].slice(-MOST_ZOOMS).map(([name, { x, y }]) => [name, textOfRange(x), textOfRange(y)].join(FIELD)),
    ),
  };
}

// One panel for each id, in their order.
function keepPanels(grid, panels, ids, titleOfPanel) {
  for (const [id, panel] of panels) {
    if (!ids.includes(id)) {
      clear(panel.chart);
      panels.delete(id);
    }
  }
  for (const id of ids) if (!panels.has(id)) panels.set(id, chartPanel(id, titleOfPanel(id), panels));
  arrangeChildren(
    grid,
    ids.map((id) => panels.get(id).box),
  );
}

function chartPanel(id, title, panels) {
  const chart = el("div", {
    class: "chart",
    tabindex: "0",
    "aria-label": `Curves of ${title}; plus and minus zoom, arrows move, Escape ends the zoom`,
  });
  const note = el("p", { class: "quiet" });
  const panel = { id, title, chart, note, figure: null, isPressed: false, isStale: false };
  panel.box = el(
    "section",
    { class: "panel" },
    panelHead(
      el("h2", {}, title),
      saveButtons(id, title, () => panel.figure),
    ),
    note,
    chart,
  );
  chart.addEventListener("plotly-ready", () => {
    hoverTogether(panel, panels);
    keepZoom(panel);
  });
  waitForPointer(panel);
  chart.addEventListener("keydown", (event) => zoomByKey(panel, event));
  return panel;
}

const panelHead = (title, buttons) => el("div", { class: "head" }, title, el("span", {}, buttons));

function saveButtons(id, title, figureOf) {
  const save = (kind, action) =>
    el(
      "button",
      {
        type: "button",
        "data-key": `${kind} ${id}`,
        "aria-label": `Save ${title} as ${kind}`,
        title: `Save as ${kind}`,
        on: { click: () => figureOf() && action(figureOf()) },
      },
      kind,
    );
  return [save("SVG", saveFigure), save("CSV", savePoints)];
}

// The lines nearest to a point where it is along x.
function nearestPoints({ data, _fullLayout: { xaxis, yaxis } }, point) {
  const gap = (axis, one, other) => Math.abs(axis.d2p(one) - axis.d2p(other));
  const near = data.flatMap(({ name, x, y }, curveNumber) => {
    if (!name) return [];
    const pointNumber = x.reduce(
      (best, value, index) =>
        y[index] !== null && Math.abs(value - point.x) < Math.abs(x[best] - point.x) ? index : best,
      0,
    );
    return gap(xaxis, x[pointNumber], point.x) < HOVER_PIXELS
      ? [{ curveNumber, pointNumber, distance: gap(yaxis, y[pointNumber], point.y) }]
      : [];
  });
  return near.sort((one, other) => one.distance - other.distance).slice(0, MOST_HOVERED);
}

// Show the values at the same place of all panels, or of the same line; a click isolates the line.
function hoverTogether({ id, chart }, panels) {
  let busy = false;
  const others = () =>
    [...panels].filter(([other, panel]) => other !== id && panel.chart.data).map(([, panel]) => panel.chart);
  chart.on("plotly_hover", ({ points: [point] }) => {
    if (busy) return;
    busy = true;
    if (isCrowded(chart)) Plotly.Fx.hover(chart, nearestPoints(chart, point), "xy");
    for (const other of others()) {
      const curveNumber = other.data.findIndex((trace) => trace.name === point.data.name);
      const pointNumber = other.data[curveNumber]?.x.indexOf(point.x) ?? -1;
      const target =
        other.layout.hovermode === "x"
          ? { xval: point.x }
          : isCrowded(other) && pointNumber >= 0
            ? nearestPoints(other, { x: point.x, y: other.data[curveNumber].y[pointNumber] })
            : pointNumber < 0
              ? []
              : [{ curveNumber, pointNumber }];
      try {
        Plotly.Fx.hover(other, target, "xy");
      } catch {
        /* it has no point there */
      }
    }
    busy = false;
  });
  chart.on("plotly_unhover", () => others().forEach((other) => Plotly.Fx.unhover(other)));
  chart.on("plotly_click", (event) => {
    const key = event.points[0].data.meta;
    if (key) setState({ isolate: state.isolate === key ? "" : key });
  });
}

// A range is drawn by Plotly; drawn here is one that has other ticks, and one that ends, as panels may share one.
function keepZoom(panel) {
  const { id, chart } = panel;
  let zoom = null;
  const save = debounce(() => {
    const before = zooms().get(id);
    const isDrawn = (axis) => (zoom[axis] !== null ? axis === "y" || !isCounted() : !before?.[axis]);
    if (isDrawn("x") && isDrawn("y")) recordState(withZoom(id, zoom));
    else setState(withZoom(id, zoom));
    for (const axis of ["x", "y"]) if (zoom[axis]) panel.figure.range[axis] = zoom[axis];
    zoom = null;
  }, 250);
  chart.on("plotly_relayout", (event) => {
    for (const axis of ["x", "y"]) {
      if (!Object.keys(event).some((name) => name.startsWith(`${axis}axis.`))) continue;
      zoom ??= { ...(zooms().get(id) ?? { x: null, y: null }) };
      zoom[axis] = event[`${axis}axis.autorange`] ? null : [...chart.layout[`${axis}axis`].range];
    }
    if (zoom) save();
  });
  chart.on("plotly_doubleclick", () => setState(withZoom(id, { x: null, y: null })));
}

// Nothing is drawn while a pointer chooses what to zoom to; what was left out is drawn after it.
function waitForPointer(panel) {
  panel.chart.addEventListener("pointerdown", () => {
    const over = new AbortController();
    panel.isPressed = true;
    const end = () => {
      over.abort();
      panel.isPressed = false;
      if (panel.isStale) refreshPage();
    };
    for (const name of ["pointerup", "pointercancel"]) addEventListener(name, end, { signal: over.signal });
  });
}

// Plus and minus zoom along x around the middle, arrows move, Escape ends the zoom.
function zoomByKey({ id, chart }, event) {
  if (event.target !== chart || !chart.data || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Escape") {
    setState(withZoom(id, { x: null, y: null }));
    return;
  }
  const [low, high] = chart._fullLayout.xaxis.range;
  const [by, width] = [
    { ArrowLeft: -0.1, ArrowRight: 0.1 }[event.key] ?? 0,
    { "+": 0.8, "=": 0.8, "-": 1.25 }[event.key] ?? 1,
  ];
  if (!by && width === 1) return;
  event.preventDefault();
  const [middle, half] = [(low + high) / 2 + by * (high - low), (width * (high - low)) / 2];
  setState(withZoom(id, { x: [middle - half, middle + half], y: zooms().get(id)?.y ?? null }));
}

// Plotly would draw a constant of 0.001 on an axis from -1 to 1, where it looks like 0.
const areConstant = (lines) => new Set(lines.flatMap(({ y }) => y.filter((value) => value !== null))).size === 1;
const isPositive = (lines, axis) => lines.some((line) => line[axis].some((value) => value > 0));

// Ticks at whole numbers where Plotly would have others between them.
function countedTicks(lines, isLog, zoom, { rangemode }) {
  const values = zoom
    ? zoom.map((end) => (isLog ? 10 ** end : end))
    : [...lines.flatMap(({ x }) => x).filter(Number.isFinite), ...(rangemode === "tozero" ? [0] : [])];
  const [low, high] = values.reduce(
    ([least, most], value) => [Math.min(least, value), Math.max(most, value)],
    [Infinity, -Infinity],
  );
  return isCounted() && high - low <= MOST_COUNTED ? { tick0: 0, dtick: isLog ? "L1" : 1 } : {};
}

// `range` is that of y where panels share one, as numbers.
function drawPanel(panel, lines, yTitle, { range = null, xaxis = {} } = {}) {
  panel.isStale = panel.isPressed;
  if (panel.isPressed) return;
  const { chart, title, note } = panel;
  const log = { x: state.logx === "1" && isPositive(lines, "x"), y: state.log === "1" && isPositive(lines, "y") };
  const isLinear = lines.length > 0 && ((state.log === "1" && !log.y) || (state.logx === "1" && !log.x));
  note.textContent = lines.length
    ? isLinear
      ? "Linear axis: there are no positive values."
      : ""
    : "No run has a value here.";
  const zoom = zooms().get(panel.id) ?? { x: null, y: null };
  range ??= areConstant(lines) ? rangeOfLines(lines) : null;
  const shared = range && (!log.y || range[0] > 0) ? (log.y ? range.map(Math.log10) : range) : null;
  const axisOfPlot = (name, fixed) => ({
    type: log[name] ? "log" : "linear",
    autorange: !fixed,
    ...(fixed ? { range: [...fixed] } : {}),
  });
  panel.figure = {
    title,
    xTitle: axisTitle(),
    yTitle,
    lines,
    log,
    isCounted: isCounted(),
    range: { x: zoom.x, y: zoom.y ?? shared },
  };
  const first = !chart.data;
  const hovermode = metricOfAxis() || lines.length > MOST_HOVERED ? "closest" : "x";
  draw(
    chart,
    bandsFirst(lines.map((line) => tracesOf(line, hovermode))),
    layoutOf(axisTitle(), yTitle, {
      hovermode,
      xaxis: {
        ...axisOfPlot("x", zoom.x),
        ...countedTicks(lines, log.x, zoom.x, xaxis),
        ...(zoom.x || log.x ? {} : xaxis),
      },
      yaxis: axisOfPlot("y", zoom.y ?? shared),
    }),
    { doubleClick: false },
  );
  if (first) chart.dispatchEvent(new Event("plotly-ready"));
}

// No band covers a line: the last trace of each line is its values.
const bandsFirst = (drawn) => [
  ...drawn.flatMap((traces) => traces.slice(0, -1)),
  ...drawn.flatMap((traces) => traces.slice(-1)),
];

const BAND = 0.2; // opacity
const RAW = 0.3; // opacity of values before smoothing
const MOST_RAW = 12; // lines that have them
const MOST_HOVERED = 6; // lines whose values are shown together
const HOVER_PIXELS = 20;
const isCrowded = (chart) => !metricOfAxis() && chart.layout.hovermode === "closest";

function tracesOf(line, hovermode) {
  const { x, y, sd, n, style, key, metric } = line;
  const value = `%{y:${hoverFormat(metric, y)}}`;
  const where = hovermode === "x" ? "" : " at %{x:.6~g}";
  const tint = cssOf(style.colour);
  const isPoint = x.length === 1;
  const values = {
    type: "scatter",
    mode: isPoint ? "markers" : "lines",
    x,
    y,
    name: escaped(line.label),
    meta: key,
    connectgaps: false,
    line: { color: tint, dash: dashOf(style.dash) || "solid", width: 1.8 },
    marker: { color: tint, size: 8, symbol: SYMBOLS[style.dash] },
    hovertemplate: value + where,
  };
  if (line.raw)
    return [
      {
        type: "scatter",
        mode: "lines",
        x,
        y: line.raw,
        line: { color: tint, width: 1 },
        opacity: RAW,
        hoverinfo: "skip",
        meta: "",
      },
      values,
    ];
  if (!sd) return [values];
  values.text = sd.map(
    (value, index) => (value === null ? "" : ` ± ${shown(Number(value.toPrecision(2)))} sd`) + ` (n = ${n[index]})`,
  );
  values.hovertemplate = `${value}%{text}${where}`;
  if (isPoint)
    return [{ ...values, error_y: { type: "data", array: sd.map((value) => value ?? 0), thickness: 1, width: 3 } }];
  const edge = (sign) => ({
    type: "scatter",
    mode: "lines",
    x,
    y: edgeOf(line, sign),
    line: { width: 0 },
    hoverinfo: "skip",
    meta: "",
  });
  return [
    edge(-1),
    {
      ...edge(1),
      fill: "tonexty",
      fillcolor:
        tint +
        Math.round(255 * BAND)
          .toString(16)
          .padStart(2, "0"),
    },
    values,
  ];
}

// The least and the greatest of some lines with their bands, and some room.
function rangeOfLines(lines) {
  const [ends, positive] = [[Infinity, -Infinity], state.log === "1"];
  for (const { y, raw, sd } of lines) {
    [...y, ...(raw ?? [])].forEach((value, index) => {
      if (value === null || (positive && value <= 0)) return;
      const spread = positive ? 0 : (sd?.[index] ?? 0);
      ends[0] = Math.min(ends[0], value - spread);
      ends[1] = Math.max(ends[1], value + spread);
    });
  }
  if (ends[0] > ends[1]) return null;
  if (positive) return [ends[0] / 1.1, ends[1] * 1.1];
  const room = 0.05 * (ends[1] - ends[0] || Math.abs(ends[1]) || 1);
  return [ends[0] - room, ends[1] + room];
}
