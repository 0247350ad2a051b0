// Two to six runs side by side; differences are to the first.

const MOST_COMPARED = 6;

// The runs in the link, else those selected in the table.
function chosenToCompare() {
  const named = listOf(state.compare)
    .map((key) => runs.get(key))
    .filter(Boolean);
  const selected = new Set(listOf(state.selected));
  return (named.length ? named : filteredRuns().filter((run) => selected.has(run.key))).slice(0, MOST_COMPARED);
}

// The best finished run of the kind of the latest one, and the latest other one.
function suggestedRuns(metric) {
  const measured = ordered(finite(filteredRuns(), metric), "-started");
  const same = measured.filter((run) => comparableOf(run) === comparableOf(measured[0]));
  const [best] = ordered(same.filter(isFinished), higher.has(metric) ? `-${metric}` : metric);
  return best ? [best, ...same.filter((run) => run !== best).slice(0, 1)] : [];
}

const compare = (list) => setState({ page: "compare", compare: asList(list.map((run) => run.key)) });

function compareButton(list, selected) {
  const chosen = list.filter((run) => selected.has(run.key));
  return el(
    "button",
    {
      type: "button",
      "data-key": "compare",
      title: "two to six selected runs",
      disabled: chosen.length < 2 || chosen.length > MOST_COMPARED,
      on: { click: () => compare(chosen) },
    },
    "Compare",
  );
}

function pageCompare(main) {
  const choices = el("div", { class: "controls of-runs" });
  const message = el("p", { class: "quiet", role: "status" });
  const body = el("div", { class: "wall" });
  const panel = (title, ...children) =>
    el("section", { class: "panel", "aria-label": title }, el("h2", {}, title), children);
  const fold = () => el("details", {}, el("summary"), el("div"));
  const [config, following, kept, equal, epochs, metrics, charts, images, units] = [
    el("div"),
    fold(),
    fold(),
    fold(),
    el("div"),
    el("div"),
    el("div", { class: "wall" }),
    el("div", { class: "wall" }),
    el("div", { class: "wall" }),
  ];
  const sections = [
    panel("Config", config, following, kept, equal),
    panel("Metrics", epochs, metrics),
    panel("Curves", charts),
    panel("Images", images),
    units,
  ];
  refill(main, choices, message, body);
  const [drawCharts, showImages, details] = [chartsIn(charts), imagesIn(images), new Map()];
  let signature = "";
  let shownChoices = {};

  return async () => {
    const [chosen, metric] = [chosenToCompare(), mainMetric(filteredRuns())];
    const list = chosen.length ? chosen : suggestedRuns(metric);
    const now = JSON.stringify([
      list.map((run) => [run.key, run.version, run.label, run.colour]),
      runs.size,
      state.by,
      state.filter,
      chosen.length,
    ]);
    const isNew = now !== signature;
    const keys = asList(list.map((run) => run.key));
    const options = JSON.stringify([keys, list.map((run) => [run.label, run.colour]), runs.size, state.filter]);
    if (shownChoices.keys !== keys || (shownChoices.options !== options && !isInUse(choices))) {
      refill(choices, comparedChoices(list));
      shownChoices = { keys, options };
    }
    if (isNew) {
      signature = now;
      message.textContent =
        list.length < 2
          ? "Select two to six runs in the table of the page Runs, or add them here."
          : !chosen.length
            ? `The best run by ${labelOfMetric(list, metric)} and the latest other one of the same data and likelihood. Select two to six runs on the page Runs, or add and remove them here.`
            : comparisonHint(list);
      compareConfigs(list, config, following, kept, equal);
      if (!isInUse(epochs)) refill(epochs, epochChoice(list));
      refill(metrics, metricsTable(list));
    }
    arrangeChildren(body, list.length < 2 ? [] : sections);
    if (list.length < 2) return;
    await drawCharts(list);
    await showImages(list);
    if (isNew) refill(units, await compareUnits(list, details));
  };
}

function comparedChoices(list) {
  const keyedChoice = (label, key) => {
    keyed(label.querySelector("select"), key);
    return label;
  };
  const chosen = new Set(list.map((run) => run.key));
  const remove = (run) =>
    el(
      "button",
      {
        type: "button",
        "data-key": `remove ${run.key}`,
        "aria-label": `Remove ${run.label}`,
        on: { click: () => compare(list.filter((item) => item !== run)) },
      },
      "×",
    );
  return [
    list.map((run) => el("span", { "data-run": run.key }, titleOf(run), " ", list.length > 1 ? remove(run) : null)),
    list.length < MOST_COMPARED
      ? keyedChoice(
          choice(
            "Add",
            [
              ["", "–"],
              ...runOptions([...runs.values()].filter(filterOf(state.filter).passes)).filter(
                ([key]) => !chosen.has(key),
              ),
            ],
            "",
            (key) => compare([...list, runs.get(key)]),
          ),
          "add",
        )
      : null,
    list.length > 1
      ? keyedChoice(
          choice(
            "Differences from",
            list.map((run) => [run.key, run.label]),
            list[0].key,
            (key) => compare([runs.get(key), ...list.filter((run) => run.key !== key)]),
          ),
          "first",
        )
      : null,
  ];
}

function sideBySide(title, list, rows) {
  const head = el(
    "tr",
    {},
    el("th"),
    list.map((run) => el("th", { scope: "col" }, el("span", {}, titleOf(run)))),
  );
  return el(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": title, "data-key": title },
    el("table", { class: "facts compared" }, el("thead", {}, head), el("tbody", {}, rows)),
  );
}

// Keys that differ, then folded those that follow others, that change no result, and that are equal.
function compareConfigs(list, config, following, kept, equal) {
  const textIn = (run, key) => (key in run.config ? `=${textOf(run.config[key])}` : "");
  const rank = new Map(varyingKeys(list).map((key, index) => [key, index - 1e6]));
  // what only the jobs of sweeps store: the config group of another run follows from its keys
  const isComparable = (key) => list.every((run) => key in run.config) || list.some((run) => key in run.given);
  const keys = new Set(list.flatMap((run) => Object.keys(run.config)));
  const all = [...keys].filter(isComparable).sort(
    (a, b) => (rank.get(a) ?? 0) - (rank.get(b) ?? 0) || a.localeCompare(b),
  );
  const isEqual = (key) => list.every((run) => textIn(run, key) === textIn(list[0], key));
  const isKept = (key) => list.some(isOurs) && isHousekeeping(key);
  const isFollowing = (key) =>
    !rank.has(key) && !isKept(key) && new Set(list.map((run) => textIn(run, key)).filter(Boolean)).size > 1;
  const rowOf = (key) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, key),
      list.map((run) =>
        el(
          "td",
          { class: textIn(run, key) === textIn(list[0], key) ? null : "differs" },
          key in run.config ? shown(run.config[key]) : "–",
        ),
      ),
    );
  const differing = all.filter((key) => !isEqual(key));
  const table = (title, some) =>
    some.length ? sideBySide(title, list, some.map(rowOf)) : el("p", { class: "quiet" }, "No key differs.");
  const folded = (details, title, some) => {
    details.hidden = !some.length;
    details.firstChild.textContent = `${title} (${some.length})`;
    refill(details.lastChild, table(title, some));
  };
  refill(
    config,
    table(
      "Keys that differ",
      differing.filter((key) => !isKept(key) && !isFollowing(key)),
    ),
  );
  folded(following, "Keys that follow those above", differing.filter(isFollowing));
  folded(kept, "Names, paths and tracking that differ", differing.filter(isKept));
  folded(equal, "Equal keys", all.filter(isEqual));
}

function metricsTable(list) {
  const best = bestValues(list, metricNames(list));
  const row = (title, cellOf) => el("tr", {}, el("th", { scope: "row" }, title), list.map(cellOf));
  const value = (run, key) => el("td", { class: "number" }, shown(valueOf(run, key)));
  const metric = (name) => {
    const digits = decimalsOf(
      name,
      list.map((run) => number(run, name)),
    );
    return row(labelOfMetric(list, name), (run) => {
      const isLast = labelOfMetric(list, name) !== labelOfMetric([run], name);
      const [own, difference] = [number(run, name), number(run, name) - number(list[0], name)];
      const count = best.get(run)?.get(name);
      return el(
        "td",
        {
          class: ["number", isLast ? "quiet" : "", count ? "top" : ""].join(" ").trim(),
          title:
            textOf(valueOf(run, name)) + (isLast ? ", of the last epoch" : "") + (count ? `, ${bestOf(count)}` : ""),
        },
        Number.isFinite(own) ? fixed(own, digits) : shown(valueOf(run, name)),
        run !== list[0] && Number.isFinite(difference)
          ? el("span", { class: "difference" }, `${difference > 0 ? "+" : ""}${fixed(difference, digits)}`)
          : null,
      );
    });
  };
  return sideBySide(
    "Metrics",
    list,
    [
      row("state", (run) => el("td", { class: `number ${run.state}` }, stateText(run))),
      withNotes(list).map((key) => row(key, (run) => el("td", {}, el("div", { class: "lines" }, run.note)))),
      metricNames(list).map(metric),
      state.by !== "last" && hasBest(list) ? row("best/epoch", (run) => value(run, "best/epoch")) : null,
      row("epoch", (run) => value(run, "epoch")),
      row("runtime", (run) => el("td", { class: "number" }, duration(valueOf(run, "runtime")))),
    ]
      .flat()
      .filter(Boolean),
  );
}

// Bars of all runs have one scale.
async function compareUnits(list, cache) {
  await Promise.all(
    list
      .filter((run) => cache.get(run.key)?.version !== run.version)
      .map(async (run) =>
        cache.set(run.key, { version: run.version, vectors: new Map(vectorsOf(await source.details(run.key))) }),
      ),
  );
  const vectors = list.map((run) => cache.get(run.key).vectors);
  const names = [...new Set(vectors.flatMap((item) => [...item.keys()]))].sort();
  return names.map((name) => {
    const most = Math.max(1e-12, ...vectors.flatMap((item) => item.get(name) ?? []));
    return el(
      "section",
      { class: "panel", "aria-label": name },
      el("h2", {}, name),
      el(
        "div",
        { class: "tiles" },
        list.map((run, index) =>
          el(
            "figure",
            { "data-run": run.key },
            el("figcaption", {}, titleOf(run)),
            vectors[index].has(name)
              ? unitBars(name, vectors[index].get(name), most)
              : el("p", { class: "quiet" }, "not logged"),
          ),
        ),
      ),
    );
  });
}
