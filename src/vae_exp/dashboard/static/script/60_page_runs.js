// The table of all runs.

const ROWS_AT_FIRST = 200;

function pageRuns(main) {
  const filter = el("input", { type: "search", value: state.filter, placeholder: "model.latent_dim>=8 state=finished", "aria-describedby": "filter-help",
    on: { input: debounce(() => setState({ filter: filter.value }), 150) } });
  const menus = el("span", { class: "controls" });
  const count = el("p", { class: "quiet", id: "count", role: "status" });
  const table = el("table", { class: "runs" });
  const compare = el("span");
  const rowCache = new Map();
  refill(main,
    el("div", { class: "controls" }, el("label", { class: "wide" }, "Filter", filter), menus, compare,
      el("button", { type: "button", on: { click: saveTable } }, "CSV")),
    el("p", { id: "filter-help", class: "quiet" }, "key>=8, key=value, key~part, or a word of the name. A run is shown if all terms match."),
    count, el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Runs" }, table));

  let menuSignature = "";
  return () => {
    const list = filteredRuns();
    const columns = columnsOf(list);
    const signature = JSON.stringify([columns, state.group, state.others, state.by]);
    if (signature !== menuSignature && !isInUse(menus)) {
      refill(menus, runMenus(list, columns));
      menuSignature = signature;
    }
    const selected = new Set(listOf(state.selected));
    const groups = state.group ? meaningOf(list, [state.group], mainMetric(list)) : "";
    const parts = [`${list.length} of ${currentRuns().length} runs`, selected.size ? `${selected.size} selected` : "", groups && `groups: ${groups}; ± standard errors over seeds`, ofTest(mainMetric(list)), ...(runs.size ? filterOf(state.filter).problems : [])];
    count.textContent = parts.filter(Boolean).join(", ");
    refill(compare, compareButton(list, selected));
    refill(table, tableHead(list, columns, selected), tableBodies(list, columns, selected, rowCache));
  };
}

// The columns of the runs that are shown.
function columnsOf(list) {
  const names = metricNames(list);
  const chosen = listOf(state.columns);
  const metrics = chosen.length ? chosen : names.slice(0, 6);
  const first = metrics.includes(mainMetric(list)) ? [mainMetric(list)] : [];
  const labels = Object.fromEntries(names.map((name) => [name, labelOfMetric(list, name)]));
  return { keys: varyingKeys(list), names, labels, metrics, first, best: state.by !== "last" && hasBest(list) ? ["best/epoch"] : [], grouped: new Set(list.map((run) => run.group)).size > 1 };
}

function runMenus(list, { keys, names, labels, metrics }) {
  return [
    choice("Group by", [["", "–"], ["group", "group"], ["state", "state"], ...keys.map((key) => [key, key])], state.group, (group) => setState({ group })),
    state.group ? othersChoice() : null,
    epochChoice(list),
    choice("Best by", names.map((name) => [name, labels[name]]), mainMetric(list), (metric) => setState({ metric })),
    boxes("Metrics", names, metrics, (chosen) => setState({ columns: asList(chosen) })),
  ];
}

const NUMERIC = new Set(["best/epoch", "epoch", "runtime", "started"]);

function headings({ keys, metrics, first, best, grouped }) {
  return ["name", "state", ...first, ...(grouped ? ["group"] : []), ...keys, ...metrics.filter((item) => !first.includes(item)), ...best, "epoch", "runtime", "started"];
}

function tableHead(list, columns, selected) {
  const all = el("input", { type: "checkbox", "aria-label": "Select all runs shown", "data-key": "all", checked: list.length > 0 && list.every((run) => selected.has(run.key)),
    on: { change: () => setState({ selected: all.checked ? asList(list.map((run) => run.key)) : "" }) } });
  const cells = headings(columns).map((key) => {
    const [up, down] = [state.sort === key, state.sort === `-${key}`];
    const sort = () => setState({ sort: up ? `-${key}` : down ? key : NUMERIC.has(key) || columns.metrics.includes(key) ? (higher.has(key) || NUMERIC.has(key) ? `-${key}` : key) : key });
    return el("th", { scope: "col", class: columns.metrics.includes(key) || NUMERIC.has(key) ? "number" : null, "aria-sort": up ? "ascending" : down ? "descending" : "none" },
      el("button", { type: "button", title: columns.labels[key] ?? key, "data-key": key, on: { click: sort } }, columns.labels[key] ?? key, up ? " ▲" : down ? " ▼" : ""));
  });
  return el("thead", {}, el("tr", {}, el("th", {}, el("span", {}, all)), cells));
}

function tableBodies(list, columns, selected, rowCache) {
  const best = bestRuns(list, mainMetric(list));
  const rowOf = (run) => {
    const signature = JSON.stringify([run.version, columns, selected.has(run.key), best.get(run), run.colour, run.dash]);
    const cached = rowCache.get(run.key);
    if (cached?.signature === signature) return cached.row;
    const row = tableRow(run, columns, selected, best.get(run));
    rowCache.set(run.key, { signature, row });
    return row;
  };
  const limit = state.all ? Infinity : ROWS_AT_FIRST;
  if (!state.group) return [el("tbody", {}, list.slice(0, limit).map(rowOf)), more(list, limit, columns)];
  const valueIn = (run) => shown(valueOf(run, state.group), state.group) || "–";
  return groupsBy(list, valueIn).map((members) => el("tbody", {}, groupRow(valueIn(members[0]), members, columns), members.slice(0, limit).map(rowOf)));
}

function more(list, limit, columns) {
  if (list.length <= limit) return null;
  return el("tbody", {}, el("tr", {}, el("td", { colspan: headings(columns).length + 1 },
    el("button", { type: "button", on: { click: () => setState({ all: "1" }) } }, `Show all ${list.length}`))));
}

function tableRow(run, columns, selected, best) {
  const box = el("input", { type: "checkbox", checked: selected.has(run.key), "data-key": `box ${run.key}`, "aria-label": `Select ${run.label}`, on: { change: () => {
    const now = new Set(listOf(state.selected));
    if (box.checked) now.add(run.key); else now.delete(run.key);
    setState({ selected: asList([...now]) });
  } } });
  const cells = headings(columns).map((key) => {
    if (key === "name") return el("td", {}, el("span", { class: `swatch c${run.colour} d${run.dash}`, "aria-hidden": "true" }), " ",
      best === undefined ? null : el("span", { title: `the best ${labelOfMetric([run], mainMetric([run]))} of runs with the same data and likelihood` }, "★ best "), el("a", { href: fragmentWith({ page: "run", run: run.key }), "data-key": `link ${run.key}`, title: run.name }, run.label), best ? el("span", { class: "comparable" }, `of ${best}`) : null);
    if (key === "state") return el("td", { class: run.state }, stateText(run));
    if (key === "started") return el("td", { class: "number" }, moment(run.started));
    if (key === "runtime") return el("td", { class: "number" }, duration(valueOf(run, key)));
    const value = valueOf(run, key);
    const isLast = typeof value === "number" && columns.labels[key] && columns.labels[key] !== labelOfMetric([run], key);
    return el("td", { class: [typeof value === "number" ? "number" : "", isLast ? "quiet" : ""].join(" ").trim() || null, title: textOf(value) + (isLast ? ", of the last epoch" : "") }, shown(value, key));
  });
  return el("tr", { class: best === undefined ? null : "best", "data-run": run.key }, el("td", {}, box), cells);
}

function groupRow(value, members, columns) {
  const cells = headings(columns).slice(1).map((key) => {
    const estimate = columns.metrics.includes(key) ? combined(members, key, mainMetric(members)) : null;
    return el("th", { class: "number" }, estimate ? withError(estimate) : "");
  });
  const finished = members.filter(isFinished).length;
  const count = finished === members.length ? `${finished} runs` : `${finished} of ${members.length} runs finished`;
  return el("tr", { class: "group" }, el("th", {}), el("th", { scope: "rowgroup" }, `${state.group} ${value} · ${count}`), cells);
}

const stateText = (run) => ({ failed: `failed (${run.code})`, reading: "reading …" }[run.state] ?? run.state) + (run.attempt > 1 ? `, attempt ${run.attempt}` : "") + (run.lost ? " ⚠" : "") + (run.warnings.length ? ` ⚠ ${run.warnings.join(", ")}` : "");
const DATE = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "short" });
const moment = (seconds) => (seconds ? DATE.format(seconds * 1000) : "");

function duration(seconds) {
  if (typeof seconds !== "number") return "";
  if (seconds < 100) return `${Number(seconds.toPrecision(3))} s`;
  return seconds < 6000 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// Whether a spreadsheet would evaluate a text; signed numbers are not formulas.
const isFormula = (text) => /^\s*[=+@-]/.test(text) && Number.isNaN(Number(text));

const ofBestEpoch = (list) => [...new Set(list.flatMap((run) => Object.keys(run.summary).filter((key) => key.startsWith("best/"))))].sort();

function saveTable() {
  const list = filteredRuns();
  const columns = ["key", "name", "state", "group", ...varyingKeys(list), ...metricNames(list), ...ofBestEpoch(list), "epoch", "runtime", "started"];
  const raw = (run, key) => (key in run.summary ? run.summary[key] : valueOf(run, key)); // the last epoch's under their names, the best one's as best/…
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const cellOf = (text) => quoted(isFormula(text) ? `'${text}` : text);
  const cell = (run, key) => cellOf(key === "key" ? run.key : textOf(raw(run, key)));
  const lines = [columns.map(cellOf), ...list.map((run) => columns.map((key) => cell(run, key)))].map((cells) => cells.join(","));
  download(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }), "runs.csv");
}
