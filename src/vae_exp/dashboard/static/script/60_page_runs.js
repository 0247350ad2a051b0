// The table of all runs.

function pageRuns(main) {
  const menus = el("span", { class: "controls" });
  const meaning = el("p", { class: "quiet", id: "meaning", role: "status" });
  const table = el("table", { class: "runs" });
  const compare = el("span");
  const said = el("p", { class: "skip", role: "status", id: "said" });
  const scroll = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Runs" }, table);
  const rowCache = new Map();
  const drawRows = virtualRows(scroll, table);
  moveColumns(table, said);
  refill(
    main,
    el("div", { class: "controls" }, menus, compare, el("button", { type: "button", on: { click: saveTable } }, "CSV")),
    meaning,
    said,
    scroll,
  );

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
    const groups = state.group
      ? meaningOf(list, state.group === BY_SETTING ? settingKeys(list) : [state.group], mainMetric(list))
      : "";
    meaning.textContent = [groups && `groups: ${groups}; ± standard errors over seeds`, ofTest(mainMetric(list))]
      .filter(Boolean)
      .join(", ");
    refill(compare, compareButton(list, selected));
    drawRows(
      tableHead(list, columns, selected),
      tableItems(list, columns, selected, rowCache),
      JSON.stringify([columns.shown, state.filter, state.group]),
    );
    pinColumns(table, columns);
  };
}

// The columns of the runs that are shown: `usual` without a choice, `offered` in the menu, `shown` in this order.
function columnsOf(list) {
  const [names, keys, main] = [metricNames(list), varyingKeys(list), mainMetric(list)];
  const besides = (metrics) =>
    [...new Set(metrics.flatMap((name) => [name, name.replace(/^val\//, "test/")]))].filter((name) =>
      names.includes(name),
    );
  const ordered = besides(names);
  const [first, metrics] = [besides(main ? [main] : []), besides(names.slice(0, 6))];
  const best = state.by !== "last" && hasBest(list) ? ["best/epoch"] : [];
  const grouped = new Set(list.map((run) => run.group)).size > 1 ? ["group"] : [];
  const rest = [...best, "epoch", "runtime", "started"];
  const usual = [
    "state",
    ...first,
    ...grouped,
    ...keys,
    ...withNotes(list),
    ...metrics.filter((item) => !first.includes(item)),
    ...rest,
  ];
  const offered = [...new Set(["state", ...first, ...grouped, ...keys, ...withNotes(list), ...ordered, ...rest])];
  const labels = Object.fromEntries(names.map((name) => [name, labelOfMetric(list, name)]));
  const pinned = listOf(state.pinned);
  const arranged = arrange(usual, offered);
  const digits = bare(
    Object.fromEntries(
      arranged
        .filter((key) => names.includes(key))
        .map((key) => [key, decimalsOf(key, decimals.has(key) ? [] : list.map((run) => number(run, key)))]),
    ),
  );
  return {
    keys,
    names,
    labels,
    offered,
    pinned,
    usual,
    digits,
    shown: [...arranged.filter((key) => pinned.includes(key)), ...arranged.filter((key) => !pinned.includes(key))],
  };
}

// `state.columns` lists columns in order and those hidden as `-key`. A usual column that it does not list follows the one
// it usually follows, so that keys of later runs appear.
function arrange(usual, offered) {
  const listed = listOf(state.columns);
  const result = listed.filter((key) => offered.includes(key));
  usual.forEach((key, index) => {
    if (result.includes(key) || listed.includes(`-${key}`)) return;
    const before = usual.slice(0, index).findLast((item) => result.includes(item));
    result.splice(before === undefined ? 0 : result.indexOf(before) + 1, 0, key);
  });
  return result;
}

const showColumns = ({ usual }, shown) =>
  setState({ columns: asList([...shown, ...usual.filter((key) => !shown.includes(key)).map((key) => `-${key}`)]) });

function runMenus(list, columns) {
  const { names, labels } = columns;
  return [
    groupChoice(groupKeys(list)),
    state.group ? othersChoice() : null,
    epochChoice(list),
    names.length
      ? choice(
          "Best by",
          names.map((name) => [name, labels[name]]),
          mainMetric(list),
          (metric) => setState({ metric }),
        )
      : null,
    columnsMenu(columns),
  ];
}

function columnsMenu({ offered, labels, shown, pinned }) {
  const toggle = (key, on) => {
    const columns = columnsOf(filteredRuns());
    const place = columns.offered.indexOf(key);
    const after = columns.offered.slice(0, place).findLast((item) => columns.shown.includes(item));
    const others = columns.shown.filter((item) => item !== key);
    if (on) others.splice(after === undefined ? 0 : others.indexOf(after) + 1, 0, key);
    showColumns(columns, others);
  };
  const pin = (key) => {
    const button = el(
      "button",
      {
        type: "button",
        "aria-label": `Pin ${labels[key] ?? key}`,
        "aria-pressed": String(pinned.includes(key)),
        on: {
          click: () => {
            const now = new Set(listOf(state.pinned));
            if (!now.delete(key)) now.add(key);
            button.setAttribute("aria-pressed", String(now.has(key)));
            setState({ pinned: asList([...now]) });
          },
        },
      },
      "Pin",
    );
    return button;
  };
  const rows = offered.map((key) =>
    el(
      "div",
      { class: "column" },
      tick(labels[key] ?? key, shown.includes(key), (on) => toggle(key, on)),
      pin(key),
    ),
  );
  return menuOf(
    "Columns",
    ...rows,
    el(
      "button",
      {
        type: "button",
        on: {
          click: (event) => {
            event.target.blur();
            setState({ columns: "", pinned: "" });
          },
        },
      },
      "Usual columns",
    ),
  );
}

const NUMERIC = new Set(["best/epoch", "epoch", "runtime", "started"]);
const headings = ({ shown }) => ["name", ...shown];
const isNumberColumn = (columns, key) => columns.names.includes(key) || NUMERIC.has(key);

// A click sorts by one column, with Shift by a further one; again, the other way.
function sortBy(columns, key, further) {
  const sorts = listOf(state.sort);
  const at = sorts.findIndex((item) => item === key || item === `-${key}`);
  const now =
    at < 0
      ? isNumberColumn(columns, key) && (higher.has(key) || NUMERIC.has(key))
        ? `-${key}`
        : key
      : sorts[at] === key
        ? `-${key}`
        : key;
  setState({ sort: asList(!further ? [now] : at < 0 ? [...sorts, now] : sorts.with(at, now)) });
}

// A pinned cell stays at the left; `pinColumns` sets how far.
const pinOf = ({ shown, pinned }, key) =>
  pinned.includes(key) ? { style: `left: var(--pin${shown.indexOf(key)}, 0)` } : {};

function tableHead(list, columns, selected) {
  const all = el("input", {
    type: "checkbox",
    "aria-label": "Select all runs shown",
    "data-key": "all",
    checked: list.length > 0 && list.every((run) => selected.has(run.key)),
    on: { change: () => setState({ selected: all.checked ? asList(list.map((run) => run.key)) : "" }) },
  });
  const sorts = listOf(state.sort);
  const cells = headings(columns).map((key) => {
    const at = sorts.findIndex((item) => item === key || item === `-${key}`);
    const mark = at < 0 ? "" : ` ${sorts[at] === key ? "▲" : "▼"}${sorts.length > 1 ? at + 1 : ""}`;
    return el(
      "th",
      {
        scope: "col",
        class: isNumberColumn(columns, key) ? "number" : null,
        "data-column": key,
        "aria-sort": at ? "none" : sorts[at] === key ? "ascending" : "descending",
        ...pinOf(columns, key),
      },
      el(
        "button",
        {
          type: "button",
          title: `${columns.labels[key] ?? key}: click to sort, with Shift by a further column${key === "name" ? "" : "; drag to move"}`,
          "data-key": key,
          on: { click: (event) => sortBy(columns, key, event.shiftKey) },
        },
        columns.labels[key] ?? key,
        mark,
      ),
    );
  });
  return el("thead", {}, el("tr", {}, el("th", {}, el("span", {}, all)), cells));
}

function pinColumns(table, { shown, pinned }) {
  const heads = [...table.querySelectorAll("thead th")].slice(1);
  let left = 0;
  for (let index = 0; index < shown.length && pinned.includes(shown[index]); index += 1) {
    left += heads[index].offsetWidth;
    table.style.setProperty(`--pin${index}`, `${left}px`);
  }
}

// Columns move where their heading is dragged, and with Alt and the arrow keys.
function moveColumns(table, said) {
  const columnAt = (target) => target?.closest?.("table.runs thead th[data-column]")?.dataset.column;
  const move = (key, find) => {
    const columns = columnsOf(filteredRuns());
    const from = columns.shown.indexOf(key);
    const to = find(columns.shown, from);
    if (from < 0 || to < 0 || to >= columns.shown.length || to === from) return;
    const isPinned = (index) => columns.pinned.includes(columns.shown[index]);
    if (isPinned(from) !== isPinned(to)) return;
    showColumns(columns, columns.shown.toSpliced(from, 1).toSpliced(to, 0, key));
    said.textContent = `${columns.labels[key] ?? key}: column ${to + 2} of ${columns.shown.length + 1}`;
  };
  table.addEventListener("keydown", (event) => {
    const key = columnAt(event.target);
    if (!key || !event.altKey || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    event.preventDefault();
    move(key, (_, from) => (event.key === "ArrowLeft" ? from - 1 : from + 1));
    document.activeElement.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
  let start = null;
  let dragged = false;
  table.addEventListener("pointerdown", (event) => {
    dragged = false;
    const key = columnAt(event.target);
    start = key && key !== "name" && event.button === 0 ? { key, x: event.clientX } : null;
  });
  table.addEventListener("pointermove", (event) => {
    if (!start || (!dragged && Math.abs(event.clientX - start.x) < 6)) return;
    if (!dragged) table.setPointerCapture(event.pointerId);
    dragged = true;
    const over = columnAt(document.elementFromPoint(event.clientX, event.clientY));
    table.querySelectorAll("thead th").forEach((head) => head.classList.toggle("over", head.dataset.column === over));
  });
  table.addEventListener("pointerup", (event) => {
    table.querySelectorAll("th.over").forEach((head) => head.classList.remove("over"));
    const over = columnAt(document.elementFromPoint(event.clientX, event.clientY));
    if (start && dragged && over) move(start.key, (shown) => shown.indexOf(over));
    start = null;
  });
  table.addEventListener("pointercancel", () => {
    start = null;
  });
  table.addEventListener(
    "click",
    (event) => {
      if (dragged) event.stopPropagation();
      dragged = false;
    },
    true,
  );
}

function tableItems(list, columns, selected, rowCache) {
  const best = bestRuns(list, mainMetric(list));
  const values = bestValues(list, columns.shown);
  const common = JSON.stringify(columns);
  if (rowCache.size > 500) rowCache.clear();
  const rowOf = (run) => {
    const signature = JSON.stringify([
      run.version,
      run.label,
      common,
      selected.has(run.key),
      best.get(run),
      [...(values.get(run) ?? [])],
      run.colour,
      run.dash,
    ]);
    const cached = rowCache.get(run.key);
    if (cached?.signature === signature) return cached.row;
    const row = tableRow(run, columns, selected, best.get(run), values.get(run));
    rowCache.set(run.key, { signature, row });
    return row;
  };
  const itemOf = (run) => ({ key: `run ${run.key}`, make: () => rowOf(run) });
  if (!state.group) return list.map(itemOf);
  const labelIn = (run) =>
    state.group === BY_SETTING
      ? labelOf(
          run,
          labelKeys(list).filter((key) => !isSeed(key)),
        )
      : `${state.group} ${shown(valueOf(run, state.group), state.group) || "–"}`;
  const groups = groupsBy(list, (run) => groupOf(run, state.group));
  const means = groupMeans(groups, columns);
  return groups.flatMap((members, index) => {
    const row = groupRow(labelIn(members[0]), members, columns, means[index]);
    return [{ key: `group ${index}`, make: () => row }, ...members.map(itemOf)];
  });
}

function tableRow(run, columns, selected, best, values) {
  const box = el("input", {
    type: "checkbox",
    checked: selected.has(run.key),
    "data-key": `box ${run.key}`,
    "aria-label": `Select ${run.label}`,
    on: {
      change: () => {
        const now = new Set(listOf(state.selected));
        if (box.checked) now.add(run.key);
        else now.delete(run.key);
        setState({ selected: asList([...now]) });
      },
    },
  });
  const cells = headings(columns).map((key) => {
    if (key === "name")
      return el(
        "td",
        {},
        swatch(run),
        " ",
        best === undefined
          ? null
          : el(
              "span",
              {
                title: `the best ${labelOfMetric([run], mainMetric([run]))} of runs with the same data and likelihood`,
              },
              "★ best ",
            ),
        el(
          "a",
          { href: fragmentWith({ page: "run", run: run.key }), "data-key": `link ${run.key}`, title: run.name },
          run.label,
        ),
        best ? el("span", { class: "comparable" }, `of ${best}`) : null,
      );
    if (key === "state")
      return el("td", { class: run.state, ...pinOf(columns, key) }, stateAlone(run), warningMark(run));
    if (key === "notes")
      return el("td", { class: "notes", title: run.note, ...pinOf(columns, key) }, cut(firstLine(run.note), 32));
    if (key === "started") return el("td", { class: "number", ...pinOf(columns, key) }, moment(run.started));
    if (key === "runtime") return el("td", { class: "number", ...pinOf(columns, key) }, duration(valueOf(run, key)));
    const value = valueOf(run, key);
    const isLast =
      typeof value === "number" && columns.labels[key] && columns.labels[key] !== labelOfMetric([run], key);
    const count = values?.get(key);
    return el(
      "td",
      {
        class:
          [
            typeof value === "number" || columns.names.includes(key) ? "number" : "",
            isLast ? "quiet" : "",
            count ? "top" : "",
          ]
            .join(" ")
            .trim() || null,
        title: textOf(value) + (isLast ? ", of the last epoch" : "") + (count ? `, ${bestOf(count)}` : ""),
        ...pinOf(columns, key),
      },
      typeof value === "number" && key in columns.digits ? fixed(value, columns.digits[key]) : shown(value, key),
    );
  });
  return el("tr", { class: best === undefined ? null : "best", "data-run": run.key }, el("td", {}, box), cells);
}

const bestOf = (count) => `the best of ${count} finished runs with the same data and likelihood`;

const settingKeys = (list) => varyingKeys(list).filter((key) => !isSeed(key));

// For each group, the means by metric, and whether one is the best: if all runs can be compared.
function groupMeans(groups, columns) {
  const finished = groups.flat().filter(isFinished);
  const means = groups.map(() => new Map());
  for (const key of columns.shown.filter((item) => columns.names.includes(item))) {
    groups.forEach((members, index) => {
      const estimate = combined(members, key, mainMetric(members));
      if (estimate) means[index].set(key, estimate);
    });
    const measured = means.filter((item) => item.has(key)).map((item) => item.get(key));
    if (ranked.has(key) && new Set(finished.map((run) => kindOf(run, key))).size === 1)
      ofBest(
        measured,
        key,
        measured.map((item) => item.mean),
      ).forEach((item) => {
        item.isBest = true;
      });
  }
  return means;
}

function groupRow(label, members, columns, means) {
  const cells = headings(columns)
    .slice(1)
    .map((key) => {
      const estimate = means.get(key);
      return el(
        "th",
        {
          class: estimate?.isBest ? "number top" : "number",
          title: estimate?.isBest ? "the best mean of these groups" : null,
          ...pinOf(columns, key),
        },
        estimate ? withError(estimate, columns.digits[key]) : "",
      );
    });
  const finished = members.filter(isFinished).length;
  const count = finished === members.length ? `${finished} runs` : `${finished} of ${members.length} finished`;
  return el("tr", { class: "group" }, el("th", {}), el("th", { scope: "rowgroup" }, `${label} · ${count}`), cells);
}

// What a run warned of, such as posterior collapse; the tooltip says more.
function warningMark(run) {
  const warnings = Object.entries(run.warnings);
  return warnings.length
    ? el(
        "span",
        { class: "warning", title: warnings.map(([name, text]) => `${name}: ${text}`).join("\n") },
        ` ⚠ ${warnings.map(([name]) => name).join(", ")}`,
      )
    : null;
}

const stateAlone = (run) =>
  (({ failed: `failed (${run.code})`, reading: "reading …" })[run.state] ?? run.state) +
  (run.attempt > 1 ? `, attempt ${run.attempt}` : "") +
  (run.lost ? " ⚠" : "");
const stateText = (run) => [stateAlone(run), ...Object.keys(run.warnings).map((name) => `⚠ ${name}`)].join(" ");

const ofBestEpoch = (list) =>
  [...new Set(list.flatMap((run) => Object.keys(run.summary).filter((key) => key.startsWith("best/"))))].sort();

function saveTable() {
  const list = filteredRuns();
  const columns = [
    "key",
    "name",
    "state",
    "group",
    ...withNotes(list),
    ...varyingKeys(list),
    ...metricNames(list),
    ...ofBestEpoch(list),
    "epoch",
    "runtime",
    "started",
  ];
  // The last epoch's under their names, the best one's as best/….
  const raw = (run, key) => (key in run.summary ? run.summary[key] : valueOf(run, key));
  saveCsv(
    [columns, ...list.map((run) => columns.map((key) => (key === "key" ? run.key : textOf(raw(run, key)))))],
    "runs.csv",
  );
}
