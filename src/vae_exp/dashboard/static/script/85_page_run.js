// One run with everything that it logged.

function pageRun(main) {
  const choices = el("div", { class: "controls of-runs" });
  const head = el("div");
  const noteBox = el("div");
  const curves = el("div", { class: "wall curves" });
  const body = el("div", { class: "wall" });
  refill(main, choices, head, noteBox, curves, body);
  const drawRunCurves = runCurves(curves);
  const showNote = noteEditor(noteBox);
  let signature = "";
  let machine = new Map();

  return async () => {
    const run = state.run ? runs.get(state.run) : filteredRuns()[0];
    [choices, noteBox, curves, body].forEach((part) => (part.hidden = !run));
    if (!run) {
      signature = "";
      const missing = isAllRead() ? `There is no run ${state.run} here.` : "The runs are being read.";
      const text = state.run ? missing : noRunText();
      refill(head, el("p", { class: "quiet" }, text));
      return;
    }
    if (!state.run && isAllRead()) recordState({ run: run.key }); // it stays when another run starts
    const now = JSON.stringify([run.key, run.version, runs.size]);
    if (now === signature) return drawRunCurves(run);
    if (!isInUse(choices)) refill(choices, runChoices(run));
    const [details, pictures] = await Promise.all([source.details(run.key), source.pictures([run.key])]);
    signature = now;
    refill(head, runHead(run));
    showNote(run, details.note);
    await drawRunCurves(run);
    const scrolled = [...body.querySelectorAll("pre")].map((item) => [
      item.scrollTop,
      item.scrollHeight - item.scrollTop - item.clientHeight < 5,
    ]);
    machine.forEach((chart) => clear(chart));
    details.machine.sort((a, b) => isOfGpu(b.metric) - isOfGpu(a.metric));
    machine = new Map(details.machine.slice(0, 40).map((curve) => [curve.metric, el("div", { class: "chart small" })]));
    refill(body, runSections(run, details, pictures[run.key] ?? [], machine));
    [...body.querySelectorAll("pre")].forEach((item, index) => {
      item.scrollTop = scrolled[index]?.[1] === false ? scrolled[index][0] : item.scrollHeight;
    });
    drawMachine(details, machine);
    body.querySelector("details.machine")?.addEventListener("toggle", () => drawMachine(details, machine));
  };
}

// The metrics of a run, training and validation of the same in one panel.
const PARTS = ["train", "val"];
const FIRST_CURVES = ["loss", "elbo", "rate", "distortion", "grad_norm", "learning_rate"];
const curveName = (metric) => metric.replace(/^(train|val)\//, "");

function runCurves(box) {
  const controls = el("div", { class: "controls" });
  const legend = el(
    "p",
    { class: "legend" },
    PARTS.map((part) => el("span", {}, swatch(styleOfPart(part)), part)),
  );
  const grid = el("div", { class: "grid" });
  const panels = new Map();
  const cache = new Map();
  let menuSignature = "";

  return async (run) => {
    const metrics = run.keys.filter(isMetric);
    const rank = (name) => (FIRST_CURVES.indexOf(name) + FIRST_CURVES.length + 1) % (FIRST_CURVES.length + 1);
    const names = [...new Set(metrics.map(curveName))].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
    const usual = names.filter((name) => FIRST_CURVES.includes(name));
    const chosen = names.filter((name) => listOf(state.panels).includes(name));
    const some = chosen.length ? chosen : usual.length ? usual : names.slice(0, 4);
    const signature = JSON.stringify([run.key, names, some, state.against]);
    if (signature !== menuSignature && !isInUse(controls)) {
      refill(
        controls,
        boxes("Curves", names, some, (list) => setState({ panels: asList(list) })),
        axisControls(metrics),
        legend,
      );
      menuSignature = signature;
    }
    arrangeChildren(box, names.length ? [controls, grid] : []);
    const drawn = metrics.filter((metric) => some.includes(curveName(metric)));
    await fetchCurves([run], drawn, cache);
    const ids = some.map((name) => `${run.key}\n${name}`);
    keepPanels(grid, panels, ids, (id) => id.slice(run.key.length + 1));
    for (const [id, panel] of panels) {
      const lines = drawn
        .filter((metric) => `${run.key}\n${curveName(metric)}` === id)
        .flatMap((metric) => partLine(run, metric, cache));
      drawPanel(panel, lines, withUnit(lines[0]?.label, panel.title));
    }
  };
}

// Validation has the second colour, all else the first.
const styleOfPart = (part) => ({ colour: Math.max(0, PARTS.indexOf(part)), dash: 0 });

function partLine(run, metric, cache) {
  const curve = curveOf(run, metric, cache);
  return curve?.x.length
    ? [
        {
          ...curve,
          sd: null,
          n: null,
          metric,
          label: metric,
          legend: metric,
          style: styleOfPart(metric.split("/")[0]),
          key: "",
        },
      ]
    : [];
}

const runOptions = (list) =>
  ordered(list, "name").map((run) => [
    run.key,
    `${run.label} (${run.id})${run.replaced ? `, attempt ${run.attempt}` : ""}`,
  ]);

function runChoices(run) {
  return [
    choice("Run", runOptions([...runs.values()]), run.key, (key) => setState({ run: key })),
    el("a", { href: fragmentWith({ page: "compare", compare: run.key }) }, "Compare with others"),
  ];
}

function runHead(run) {
  const facts = [
    `${stateText(run)}`,
    run.label !== run.name && `name ${run.name}`,
    run.group && `group ${run.group}`,
    run.type,
    run.project && `project ${run.project}`,
    `id ${run.id}`,
    run.started && `started ${moment(run.started)}`,
    duration(valueOf(run, "runtime")),
    run.replaced && "replaced by a later attempt",
    run.segments > 1 && `${run.segments} segments`,
    run.tags.length && `tags ${run.tags.join(", ")}`,
  ];
  return [
    el("h2", {}, swatch(run), " ", run.label),
    el("p", { class: `quiet` }, facts.filter(Boolean).join(" · ")),
    run.lost ? el("p", { class: "note" }, `Not everything could be read: ${run.lost}.`) : null,
  ];
}

// Use and memory of GPUs are shown, all else that W&B measures of a machine is folded.
const machineGrid = (metrics, machine) =>
  el(
    "div",
    { class: "grid" },
    metrics.map((metric) => el("section", {}, el("h3", {}, titleOfMetric(metric)), machine.get(metric))),
  );

function runSections(run, details, pictures, machine) {
  const measured = [...machine.keys()];
  const warnings = warningsOf(details);
  const last = new Map(pictures.map((picture) => [`${picture.name}\n${picture.caption}`, picture]));
  const vectors = vectorsOf(details);
  return [
    details.notes ? el("p", { class: "lines" }, `Notes in W&B: ${details.notes}`) : null,
    warnings.length
      ? el(
          "section",
          { class: "panel" },
          el("h2", {}, "Warnings"),
          el(
            "ul",
            {},
            warnings.map((text) => el("li", { class: "warning" }, text)),
          ),
        )
      : null,
    measured.some(isOfGpu)
      ? el("section", { class: "panel gpu" }, el("h2", {}, "GPU"), machineGrid(measured.filter(isOfGpu), machine))
      : null,
    el(
      "div",
      { class: "grid" },
      facts(
        "Summary",
        Object.entries(run.summary).filter(([key]) => !key.startsWith("_") && !key.startsWith("figures/")),
      ),
      facts("Config", Object.entries(run.config)),
      vectors.map(([name, values]) => el("section", { class: "panel" }, el("h2", {}, name), unitBars(name, values))),
    ),
    last.size
      ? el(
          "section",
          { class: "panel" },
          el("h2", {}, "Pictures"),
          el(
            "div",
            { class: "tiles" },
            [...last.entries()].map(([key, picture]) =>
              el(
                "figure",
                {},
                keyed(pictureOf(run, picture), key),
                el(
                  "figcaption",
                  {},
                  `${picture.name.replace(/^figures\//, "")}, ${momentText(picture)}${picture.caption ? ` · ${picture.caption}` : ""}`,
                ),
              ),
            ),
          ),
        )
      : null,
    measured.some((metric) => !isOfGpu(metric))
      ? el(
          "details",
          { class: "panel machine", "data-key": "machine" },
          el("summary", { "data-key": "summary of machine" }, "Machine"),
          machineGrid(
            measured.filter((metric) => !isOfGpu(metric)),
            machine,
          ),
        )
      : null,
    details.console.length
      ? el(
          "section",
          { class: "panel" },
          el("h2", {}, "Console"),
          el(
            "pre",
            { tabindex: "0", "aria-label": "Console", "data-key": "console" },
            details.console.map((line) => el("span", { class: line.error ? "error" : null }, plainText(line.text))),
          ),
        )
      : null,
    Object.keys(details.environment).length ? facts("Environment", Object.entries(details.environment)) : null,
  ];
}

// Values of latent units, such as `val/unit_rates`; the largest are drawn.
const vectorsOf = (details) =>
  Object.entries(details.vectors).filter(([, values]) => values.length > 1 && values.length <= 512);
function unitBars(name, values, most) {
  const digits = decimalsOf(name, values);
  return barChart(
    values
      .map((value, index) => [`z${index + 1}`, value ?? 0])
      .sort((a, b) => b[1] - a[1])
      .slice(0, 64),
    (value) => fixed(value, digits),
    most,
  );
}

// Remove terminal control codes: no colours, and of an overwritten line its last state.
function plainText(text) {
  // eslint-disable-next-line no-control-regex
  return text
    .replace(/\u001b\[[0-9;?]*[ -/]*[@-~]/g, "")
    .replace(/\r+\n/g, "\n")
    .replace(/^.*\r(?!$)/gm, "")
    .replace(/[\u0000-\u0008\u000b-\u001f]/g, "");
}

function warningsOf(details) {
  const lines = details.console
    .flatMap((line) => plainText(line.text).split("\n"))
    .filter((line) => /\bWARNING\b|\bWarning:/.test(line));
  return [
    ...new Set([
      ...details.alerts.map((alert) => [alert.title, alert.text].filter(Boolean).join(": ")),
      ...lines.map((line) => line.trim()),
    ]),
  ].slice(0, 50);
}

function facts(title, pairs) {
  const rows = pairs
    .sort(([a], [b]) => a.localeCompare(b))
    .map(([key, value]) => el("tr", {}, el("th", { scope: "row" }, key), el("td", {}, shown(value, key))));
  return el(
    "section",
    { class: "panel" },
    el("h2", {}, title),
    el(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": title, "data-key": title },
      el("table", { class: "facts" }, el("tbody", {}, rows)),
    ),
  );
}

function drawMachine(details, machine) {
  for (const { metric, x, y } of details.machine) {
    const chart = machine.get(metric);
    if (!chart?.isConnected || (!isOfGpu(metric) && !chart.closest("details").open)) continue;
    draw(
      chart,
      [
        {
          type: "scatter",
          mode: "lines",
          x,
          y: inUnit(metric, y),
          line: { color: colour("accent"), width: 1.5 },
          hovertemplate: "%{y:.4g} at %{x} s<extra></extra>",
        },
      ],
      layoutOf("seconds", "", { yaxis: titleOfMetric(metric).endsWith("%)") ? { range: [0, 102] } : {} }),
    );
  }
}
