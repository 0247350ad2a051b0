// Curves of several runs, one panel for each metric.

const MOST_RUNS_IN_A_CHART = 50;

function pageCharts(main) {
  const drawCharts = chartsIn(main);
  return () => drawCharts(chosenRuns());
}

function chartsIn(box) {
  const controls = el("div", { class: "controls" });
  const message = el("p", { class: "quiet", role: "status" });
  const legend = el("div", { class: "legend", role: "group", "aria-label": "Runs; press one to isolate it" });
  const grid = el("div", { class: "grid" });
  const panels = new Map();
  const cache = new Map();
  refill(box, controls, message, legend, grid);
  let menuSignature = "";

  return async (all) => {
    const list = all.slice(0, MOST_RUNS_IN_A_CHART);
    const names = metricNames(list).filter((name) => hasCurve(list, name) || list.some((run) => pointOf(run, name)));
    const metrics = listOf(state.metrics).length ? listOf(state.metrics) : names.filter((name) => hasCurve(list, name)).slice(0, 4);
    const signature = JSON.stringify([names, metrics, state.against]);
    if (signature !== menuSignature && !isInUse(controls)) {
      refill(controls, chartControls(names, metrics));
      menuSignature = signature;
    }
    message.textContent = `${list.length} of ${all.length} runs` + (all.length > list.length ? ": filter or select to see others" : "") + (state.isolate ? "; one is isolated" : "");
    const keys = labelKeys(list);
    const groups = state.seeds === "1" ? groupsBy(list, settingOf) : list.map((run) => [run]);
    refill(legend, groups.map((members) => legendButton(members, keys)));
    await fetchCurves(list, metrics, cache);
    keepPanels(grid, panels, metrics);
    for (const [metric, panel] of panels) drawCurves(panel.chart, metric, groups, keys, cache);
    if (!metrics.length) message.textContent = "There are no metrics yet.";
  };
}

const hasCurve = (list, metric) => list.some((run) => run.keys.includes(metric));

// What was scored once, after training, is a point at the epoch that was scored.
function pointOf(run, metric) {
  const [epoch, value] = [run.summary[`${metric.split("/")[0]}/epoch`], run.summary[metric]];
  return state.against === "epoch" && typeof epoch === "number" && typeof value === "number" ? { x: [epoch], y: [value] } : null;
}

function chartControls(names, metrics) {
  return [
    boxes("Metrics", names, metrics, (chosen) => setState({ metrics: asList(chosen) })),
    axisControls(),
    tick("Mean ± standard error over seeds", state.seeds === "1", (on) => setState({ seeds: on ? "1" : "" })),
  ];
}

function axisControls() {
  const smooth = el("input", { type: "range", min: 0, max: 0.98, step: 0.02, value: state.smooth, on: { input: debounce(() => setState({ smooth: smooth.value }), 60) } });
  return [
    choice("Against", ["epoch", "step", ["time", "time (s)"]], state.against, (against) => setState({ against })),
    tick("Log axis", state.log === "1", (on) => setState({ log: on ? "1" : "" })),
    el("label", {}, "Smoothing", smooth),
  ];
}

const isIsolated = (members) => members.some((run) => run.key === state.isolate);
const groupLabel = (members, keys) => members.length > 1 ? `${labelOf(members[0], keys.filter((key) => !isSeed(key)))} (${members.length})` : labelOf(members[0], keys);

function legendButton(members, keys) {
  const isolated = isIsolated(members);
  const [run] = members;
  return el("button", { type: "button", "aria-pressed": isolated, "data-key": run.key, title: run.name, on: { click: () => setState({ isolate: isolated ? "" : run.key }) } },
    el("span", { class: `swatch c${run.colour} d${run.dash}`, "aria-hidden": "true" }), groupLabel(members, keys));
}

// Fetch only what has changed.
async function fetchCurves(list, metrics, cache) {
  const cacheKey = (key, metric) => `${state.against}\n${metric}\n${key}`;
  const against = state.against;
  const stale = list.filter((run) => metrics.some((metric) => cache.get(cacheKey(run.key, metric))?.version !== run.version));
  if (!stale.length || !metrics.length) return;
  for (const curve of await source.curves(stale.map((run) => run.key), metrics, against)) {
    cache.set(`${against}\n${curve.metric}\n${curve.run}`, { ...curve, version: runs.get(curve.run)?.version });
  }
}

// One panel for each name, in their order.
function keepPanels(grid, panels, names) {
  for (const [name, panel] of panels) {
    if (!names.includes(name)) { clear(panel.chart); panel.box.remove(); panels.delete(name); }
  }
  names.forEach((name, index) => {
    if (!panels.has(name)) panels.set(name, chartPanel(name, panels));
    const { box } = panels.get(name);
    if (grid.children[index] !== box) grid.insertBefore(box, grid.children[index] ?? null);
  });
}

function chartPanel(metric, panels) {
  const chart = el("div", { class: "chart", "aria-label": `Curves of ${metric}` });
  const box = el("section", { class: "panel" }, el("h2", {}, metric), chart);
  let busy = false;
  chart.addEventListener("plotly-ready", () => {
    chart.on("plotly_hover", (event) => {
      if (busy) return;
      busy = true;
      for (const [other, panel] of panels) {
        if (other !== metric && panel.chart.data) try { Plotly.Fx.hover(panel.chart, { xval: event.points[0].x }, "xy"); } catch { /* it has no point there */ }
      }
      busy = false;
    });
    chart.on("plotly_unhover", () => {
      for (const [other, panel] of panels) if (other !== metric && panel.chart.data) Plotly.Fx.unhover(panel.chart);
    });
    chart.on("plotly_click", (event) => {
      const key = event.points[0].data.meta;
      if (key) setState({ isolate: state.isolate === key ? "" : key });
    });
  });
  return { box, chart };
}

function drawCurves(chart, metric, groups, keys, cache) {
  const isolated = groups.filter(isIsolated);
  const curveOf = (run) => { const curve = cache.get(`${state.against}\n${metric}\n${run.key}`); return curve?.x.length ? curve : pointOf(run, metric); };
  const tracesOf = (members) => (members.length === 1 ? lineTrace(members[0], curveOf(members[0]), keys, metric) : hasCurve(members, metric) ? bandTraces(members, curveOf, keys, metric) : meanPoint(members, metric, keys));
  const drawn = (isolated.length ? isolated : groups).map((members) => members.filter((run) => curveOf(run)?.x.length)).filter((members) => members.length);
  const traces = drawn.flatMap(tracesOf);
  drawPanel(chart, traces, metric, { xaxis: hasCurve(groups.flat(), metric) ? {} : { rangemode: "tozero" }, hovermode: groups.length > 12 ? "closest" : "x" });
}

function drawPanel(chart, traces, name, more) {
  const xTitle = { epoch: "epoch", step: "step", time: "seconds" }[state.against];
  const first = !chart.data;
  draw(chart, traces, layoutOf(xTitle, name, { yaxis: { type: state.log === "1" ? "log" : "linear" }, uirevision: `${state.against}${state.log}`, ...more }));
  if (first) chart.dispatchEvent(new Event("plotly-ready"));
}

// Of runs that differ in seeds alone: the mean of what was scored, at the mean epoch.
function meanPoint(members, metric, keys) {
  const points = members.map((run) => pointOf(run, metric));
  const errors = deviation(points.map(({ y }) => y[0])) / Math.sqrt(points.length);
  return { type: "scatter", mode: "markers", x: [mean(points.map(({ x }) => x[0]))], y: [mean(points.map(({ y }) => y[0]))], error_y: { type: "data", array: [errors], thickness: 1, width: 3 },
    name: escaped(groupLabel(members, keys)), marker: { color: colour(`c${members[0].colour}`) }, meta: members[0].key, hovertemplate: `%{y:${hoverFormat(metric, points.map(({ y }) => y[0]))}} ± %{error_y.array:.2g} at %{x:.4g}` };
}

const lineTrace = (run, curve, keys, metric) => ({
  type: "scatter", mode: curve.x.length === 1 ? "markers" : "lines", x: curve.x, y: smoothed(curve.y, Number(state.smooth)),
  name: escaped(labelOf(run, keys)), line: lineOf(run), marker: { color: colour(`c${run.colour}`) }, meta: run.key, connectgaps: false,
  hovertemplate: `%{y:${hoverFormat(metric, curve.y)}} at %{x}`,
});

// An exponential moving average with Adam's bias correction; gaps stay gaps.
function smoothed(values, weight) {
  if (!(weight > 0)) return values;
  let [sum, norm] = [0, 0];
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    norm = weight * norm + (1 - weight);
    return sum / norm;
  });
}

// Runs that differ in seeds alone become their mean and a band of one standard error.
function bandTraces(members, curveOf, keys, metric) {
  const points = new Map();
  for (const curve of members.map(curveOf)) {
    smoothed(curve.y, Number(state.smooth)).forEach((y, index) => {
      if (y === null) return;
      if (!points.has(curve.x[index])) points.set(curve.x[index], []);
      points.get(curve.x[index]).push(y);
    });
  }
  const x = [...points.keys()].sort((a, b) => a - b);
  const means = x.map((item) => mean(points.get(item)));
  const spread = x.map((item) => (points.get(item).length > 1 ? deviation(points.get(item)) / Math.sqrt(points.get(item).length) : 0));
  const [run] = members;
  const edge = { type: "scatter", mode: "lines", x, line: { width: 0 }, hoverinfo: "skip", meta: "" };
  return [
    { ...edge, y: means.map((item, index) => item - spread[index]) },
    { ...edge, y: means.map((item, index) => item + spread[index]), fill: "tonexty", fillcolor: `${colour(`c${run.colour}`)}33` },
    { type: "scatter", mode: "lines", x, y: means, name: escaped(groupLabel(members, keys)), line: lineOf(run), meta: run.key, customdata: x.map((item, index) => [spread[index], points.get(item).length]), hovertemplate: `%{y:${hoverFormat(metric, means)}} ± %{customdata[0]:.2g} (%{customdata[1]} seeds) at %{x}` },
  ];
}
