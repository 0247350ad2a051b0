// Curves of several runs, or means of groups of them: a panel for each metric and each value of a key.

const MOST_LINES = 50;
const MOST_RUNS_OF_MEANS = 500;
const MOST_PANELS = 24;
const MOST_COLUMNS = 4; // of panels of one metric

// The page Compare draws single runs.
const groupOfCharts = () => (currentPage() === "compare" ? "" : state.group);

function pageCharts(main) {
  const drawCharts = chartsIn(main);
  return () => drawCharts(chosenRuns());
}

function chartsIn(box) {
  const controls = el("div", { class: "controls" });
  const message = el("p", { class: "quiet", role: "status" });
  const legend = el("div", { class: "legend columns", role: "group", "aria-label": "Lines; press one to isolate it" });
  const grid = el("div", { class: "grid" });
  const [panels, cache] = [new Map(), new Map()];
  refill(box, controls, message, legend, grid);
  let menuSignature = "";

  return async (all) => {
    const list = all.slice(0, groupOfCharts() ? MOST_RUNS_OF_MEANS : MOST_LINES);
    const logged = metricNames(list).filter((name) => hasCurve(list, name) || list.some((run) => pointOf(run, name)));
    const names = [...logged, ...new Set(list.flatMap((run) => run.gpu))];
    const metrics = listOf(state.metrics).length
      ? listOf(state.metrics)
      : logged.filter((name) => hasCurve(list, name)).slice(0, 4);
    const keys = groupKeys(list);
    const signature = JSON.stringify([
      names,
      metrics,
      keys,
      ...["against", "group", "tint", "dash", "facet"].map((name) => state[name]),
    ]);
    if (signature !== menuSignature && !isInUse(controls)) {
      refill(controls, chartControls(list, names, metrics, keys));
      menuSignature = signature;
    }
    const groups = groupsOfCharts(list);
    const entries = legendEntries(groups);
    refill(legend, entries.map(legendButton));
    await fetchCurves(list, metrics, cache);
    const shown = panelsOf(groups, metrics);
    grid.classList.toggle("facets", Boolean(state.facet));
    grid.style.setProperty("--facets", Math.min(MOST_COLUMNS, shown.length / metrics.length || 1));
    keepPanels(
      grid,
      panels,
      shown.slice(0, MOST_PANELS).map(({ id }) => id),
      (id) => shown.find((panel) => panel.id === id).title,
    );
    message.textContent = metrics.length
      ? asSentences(
          [
            ...countsOf(list, all, groups),
            shown.length > MOST_PANELS ? `${MOST_PANELS} of ${shown.length} panels` : "",
          ],
          currentPage() === "compare" ? "" : comparisonHint(list),
        )
      : all.length
        ? "There are no metrics yet."
        : noRunText();
    const isolated = entries.find(isIsolated)?.groups;
    drawPanels(panels, shown, (group) => !isolated || isolated.includes(group), cache);
  };
}

function countsOf(list, all, groups) {
  const lacking = list.filter(lacksAxis).length;
  const hidden = new Set(groups.slice(MOST_LINES).flatMap(({ members }) => members)).size;
  return [
    all.length > list.length - hidden
      ? `${list.length - hidden} of ${all.length} runs: filter or select to see others`
      : "",
    groupOfCharts()
      ? `lines are means of ${Math.min(MOST_LINES, groups.length)} groups, bands and ± standard deviations over their runs`
      : "",
    lacking ? `${lacking} without ${metricOfAxis() || "one batch size in the config"}` : "",
    state.isolate ? "one is isolated" : "",
  ];
}

const keyChoice = (label, name, keys) =>
  choice(label, [["", "–"], ...keys.map((key) => [key, key])], state[name], (key) => setState({ [name]: key }));

function chartControls(list, names, metrics, keys) {
  return [
    boxes("Metrics", names, metrics, (chosen) => setState({ metrics: asList(chosen) }), titleOfMetric),
    axisControls(names.filter((name) => hasCurve(list, name) && !isOfGpu(name))),
    currentPage() === "compare" ? null : groupChoice(keys),
    keyChoice("Colour by", "tint", keys),
    keyChoice("Dash by", "dash", keys),
    keyChoice("Panels by", "facet", keys),
    choice(
      "Range of y",
      [
        ["", "same for a metric"],
        ["panel", "of each panel"],
        ["all", "same for all panels"],
      ],
      state.range,
      (range) => setState({ range }),
    ),
  ];
}

// The fields of axes, which other pages have too.
function axisControls(metrics) {
  const smooth = el("input", {
    type: "range",
    min: 0,
    max: 0.98,
    step: 0.02,
    value: state.smooth,
    on: { input: debounce(() => setState({ smooth: smooth.value }), 60) },
  });
  const axes = [...Object.entries(AXES), ...metrics.map((name) => [OF_METRIC + name, name])];
  return [
    choice("Against", axes, state.against, (against) => setState({ against, zoom: "" })),
    el(
      "span",
      { class: "controls" },
      tick("Log x", state.logx === "1", (on) => setState({ logx: on ? "1" : "", zoom: "" })),
      tick("Log y", state.log === "1", (on) => setState({ log: on ? "1" : "", zoom: "" })),
    ),
    el("label", {}, "Smoothing", smooth),
  ];
}

const splitKeys = () => [...new Set([state.tint, state.dash, state.facet].filter(Boolean))];

// Groups of runs with their labels and styles; without means, each run is one.
function groupsOfCharts(list) {
  const split = (run) => splitKeys().map((key) => textBy(run, key));
  const group = groupOfCharts();
  const whole = (run) => (group ? groupOf(run, group) : run.key);
  const groups = groupsBy(list, (run) => JSON.stringify([whole(run), ...split(run)]));
  const isOfKey = group !== "" && group !== BY_SETTING;
  if (isOfKey) groups.sort(([one], [other]) => byValue(textBy(one, group), textBy(other, group)));
  const first = (members) => Math.min(...members.map((run) => run.started));
  const order = isOfKey ? groups : [...groups].sort((one, other) => first(one) - first(other));
  const numbered = new Map(
    order.map((members, index) => [
      members,
      { colour: index % COLOURS, dash: Math.floor(index / COLOURS) % DASHES.length },
    ]),
  );
  const styles = stylesOf(
    groups.map((members) => (group ? numbered.get(members) : members[0])),
    ...stylesByKey(list, groups),
  );
  const keys = isOfKey
    ? [...new Set([group, ...splitKeys()])]
    : labelKeys(list).filter((key) => !isSeed(key) || splitKeys().includes(key));
  const labelIn = ([run]) => (isOfKey ? labelBy : labelOf)(run, keys);
  return groups.map((members, index) => ({
    members,
    style: styles[index],
    label: group ? `${labelIn(members)} (${members.length})` : members[0].label,
  }));
}

// The numbers of colours and dashes that keys decide, or null. More colours than there are take a dash too, or, of
// numbers, are on the ramp.
function stylesByKey(list, groups) {
  const numbersBy = (key) => {
    const values = valuesOf(list, key);
    return groups.map(([run]) => values.indexOf(textBy(run, key)));
  };
  const dashes = state.dash && numbersBy(state.dash).map((number) => number % DASHES.length);
  if (!state.tint) return [null, dashes || null];
  const count = valuesOf(list, state.tint).length;
  const numbers = numbersBy(state.tint);
  if (count > COLOURS && list.every((run) => typeof valueOf(run, state.tint) === "number"))
    return [numbers.map((number) => ({ at: number / (count - 1) })), dashes || null];
  return [
    numbers.map((number) => number % COLOURS),
    dashes || numbers.map((number) => Math.floor(number / COLOURS) % DASHES.length),
  ];
}

const labelBy = (run, keys) =>
  keys
    .map((key) =>
      key in run.overrides
        ? run.overrides[key].join("=")
        : `${nameOf(key, keys)}=${shown(valueOf(run, key), key) || "–"}`,
    )
    .join(" ");

// Where a key decides the colour, what looks the same is one entry.
function legendEntries(groups) {
  if (!state.tint)
    return groups.slice(0, MOST_LINES).map((group) => ({ label: group.label, style: group.style, groups: [group] }));
  const keys = [...new Set([state.tint, state.dash].filter(Boolean))];
  const ordered = [...groups].sort((one, other) =>
    keys.reduce((sign, key) => sign || byValue(textBy(one.members[0], key), textBy(other.members[0], key)), 0),
  );
  return groupsBy(ordered, ({ members }) => keys.map((key) => textBy(members[0], key)).join(SEPARATOR)).map((some) => ({
    label: labelBy(some[0].members[0], keys),
    style: some[0].style,
    groups: some,
  }));
}

const isIsolated = ({ groups }) => groups.some(({ members }) => members.some((run) => run.key === state.isolate));
const groupLabel = (members, keys) =>
  members.length > 1
    ? `${labelOf(
        members[0],
        keys.filter((key) => !isSeed(key)),
      )} (${members.length})`
    : members[0].label;

function legendButton(entry) {
  const isolated = isIsolated(entry);
  const [run] = entry.groups[0].members;
  return el(
    "button",
    {
      type: "button",
      "aria-pressed": isolated,
      "data-key": run.key,
      title: entry.groups.length === 1 ? run.name : null,
      on: { click: () => setState({ isolate: isolated ? "" : run.key }) },
    },
    swatch(entry.style),
    el("span", {}, entry.label),
  );
}

function panelsOf(groups, metrics) {
  const some = groups.slice(0, MOST_LINES);
  if (!state.facet)
    return metrics.map((metric) => ({ id: metric, title: titleOfMetric(metric), metric, groups: some }));
  const values = valuesOf(
    some.map(({ members }) => members[0]),
    state.facet,
  );
  return metrics.flatMap((metric) =>
    values.map((value) => {
      const inside = some.filter(({ members }) => textBy(members[0], state.facet) === value);
      return {
        id: [metric, state.facet, value].join("\n"),
        title: `${titleOfMetric(metric)}, ${labelBy(inside[0].members[0], [state.facet])}`,
        metric,
        groups: inside,
      };
    }),
  );
}

function linesOf(groups, metric, cache) {
  return groups.flatMap(({ members, style, label }) => {
    const curves = members.map((run) => curveOf(run, metric, cache)).filter((curve) => curve?.x.length);
    if (!curves.length) return [];
    const points = curves.length > 1 ? meanCurve(curves) : { ...curves[0], sd: null, n: null };
    if (groups.length > MOST_RAW) points.raw = null;
    return { ...points, label, style, metric, key: members[0].key };
  });
}

function drawPanels(panels, described, isShown, cache) {
  const drawn = described
    .filter(({ id }) => panels.has(id))
    .map((panel) => ({ ...panel, lines: linesOf(panel.groups.filter(isShown), panel.metric, cache) }));
  const legends = new Map(
    legendEntries(drawn.flatMap(({ groups }) => groups)).flatMap(({ label, groups }) =>
      groups.map((group) => [group.label, label]),
    ),
  );
  for (const { id, metric, lines, groups } of drawn) {
    lines.forEach((line) => {
      line.legend = legends.get(line.label) ?? line.label;
    });
    const together =
      state.range === "all"
        ? drawn
        : state.range === "" && state.facet
          ? drawn.filter((panel) => panel.metric === metric)
          : [];
    const hasCurves = hasCurve(
      groups.flatMap(({ members }) => members),
      metric,
    );
    drawPanel(panels.get(id), lines, withUnit(metric, titleOfMetric(metric)), {
      range: together.length ? rangeOfLines(together.flatMap((panel) => panel.lines)) : null,
      xaxis: hasCurves ? {} : { rangemode: "tozero" },
    });
  }
}
