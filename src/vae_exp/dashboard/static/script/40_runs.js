// The runs, and what is computed from them: varying keys, filters, order, colours, the best runs.

const runs = new Map();
const higher = new Set();
const ranked = new Set(); // metrics that rank runs, unlike parts of the loss, counts and errors
const units = new Map();
const dataListeners = [];
let store = null;
let cursor = 0;
let notes = [];
let waiting = 0; // files that are not yet read, and runs that are not yet sent
let unsent = 0;

const PREFERRED = [
  "val/elbo",
  "test/elbo",
  "test/nll",
  "val/rate",
  "val/distortion",
  "val/nll",
  "val/active_units",
  "val/loss",
  "train/elbo",
  "train/loss",
];
const RANKED_BY = ["val/elbo", "train/elbo", "val/loss", "train/loss"]; // as `vae_exp.sweep best` does
const NOT_METRICS = new Set(["_runtime", "_timestamp", "_step", "epoch"]);
// A function of a text that stores its results: there are few keys and many runs.
function remembered(find) {
  const results = new Map();
  return (text) => {
    if (!results.has(text)) results.set(text, find(text));
    return results.get(text);
  };
}
const isMetric = remembered((name) => !NOT_METRICS.has(name) && !/^(best\/|figures\/|\w+\/epoch$)/.test(name));

// Without a prototype: a metric may be called "constructor".
const bare = (values) => Object.assign(Object.create(null), values);

// An override of a job that is not a key of the config selects a config group: `loss=iwae`.
const OVERRIDES = /^(overrides|swept)\./;
const withoutOverrides = remembered((key) => key.replace(OVERRIDES, ""));
function withOverrides(config) {
  for (const key of Object.keys(config)) {
    const name = withoutOverrides(key);
    if (!(name in config)) config[name] = config[key];
  }
  return config;
}

// Key of the config → a value, and whether any run has another: among the keys that vary in a list of runs are no others.
const variants = new Map();
function noteVariants(config) {
  for (const key in config) {
    const variant = variants.get(key);
    if (!variant) variants.set(key, { value: config[key], varies: false });
    else if (!variant.varies && config[key] !== variant.value)
      variant.varies = textOf(config[key]) !== textOf(variant.value);
  }
}

// Equal texts become the same one, which is compared quickly.
const sameText = remembered((text) => text);
const sameNames = remembered((text) => JSON.parse(text));

function takeRun(run) {
  const metrics = [
    ...run.keys,
    ...Object.keys(run.summary).filter((key) => typeof run.summary[key] === "number"),
  ].filter(isMetric);
  const config = withOverrides(bare(run.config));
  noteVariants(config);
  runs.set(run.key, {
    ...run,
    ownLabel: run.label,
    given: run.config,
    config,
    overrides: bare(run.overrides),
    summary: bare(run.summary),
    metrics: sameNames(JSON.stringify(metrics)),
  });
}

// False if another server answered, whose cursor differs: everything must be fetched again.
function takeChanges(answer) {
  if (store !== null && answer.store !== store) {
    runs.clear();
    variants.clear();
    [store, cursor] = [null, 0];
    return false;
  }
  store = answer.store;
  answer.runs.forEach(takeRun);
  answer.removed.forEach((key) => runs.delete(key));
  answer.higher.forEach((key) => higher.add(key));
  answer.ranked.forEach((key) => ranked.add(key));
  Object.entries(answer.decimals).forEach(([key, digits]) => decimals.set(key, digits));
  Object.entries(answer.units).forEach(([key, unit]) => units.set(key, unit));
  const unread = answer.waiting + answer.more;
  const moved = answer.runs.length > 0 || answer.removed.length > 0 || unread !== waiting;
  const isFirst = runs.size <= answer.runs.length;
  [cursor, notes, waiting, unsent] = [answer.cursor, answer.notes, unread, answer.more];
  if (moved && (isFirst || !unsent)) {
    numberRuns();
    labelRuns(currentRuns());
    dataListeners.forEach((listener) => listener());
  }
  return true;
}

// A run has the same colour and dash as long as no older run appears.
function numberRuns() {
  [...runs.values()]
    .sort((a, b) => a.started - b.started || a.key.localeCompare(b.key))
    .forEach((run, index) => {
      run.colour = index % 8;
      run.dash = Math.floor(index / 8) % 4;
    });
}

// The label of a run on all pages: where others have the same one, with its group before it or its id behind it.
function labelRuns(list) {
  for (const same of groupsBy(list, (run) => run.ownLabel)) {
    for (const members of groupsBy(same, (run) => run.group)) {
      for (const run of members)
        run.label =
          same.length === 1
            ? run.ownLabel
            : members.length === 1 && run.group
              ? `${run.group}: ${run.ownLabel}`
              : `${run.ownLabel} (${run.id})`;
    }
  }
}

const OWN_FIELDS = {
  name: (run) => run.label,
  state: (run) => run.state,
  group: (run) => run.group,
  project: (run) => run.project,
  type: (run) => run.type,
  id: (run) => run.id,
  started: (run) => run.started,
  tags: (run) => run.tags.join(" "),
  runtime: (run) => run.summary._runtime ?? null,
  epoch: (run) => run.summary.epoch ?? null,
  code: (run) => run.code,
  notes: (run) => run.note,
};

// What `sweep` calls `--by best` and `--by last`: the epoch whose metrics count, where the run says what the best one is.
const bestName = remembered((key) => (/^(val|train)\//.test(key) ? `best/${key}` : key));
const hasBest = (list, key = "") =>
  list.some((run) => (key ? bestName(key) !== key && bestName(key) in run.summary : "best/epoch" in run.summary));
const labelOfMetric = (list, name) => (state.by !== "last" && hasBest(list, name) ? bestName(name) : name);
const epochChoice = (list) =>
  hasBest(list)
    ? choice(
        "Values of",
        [
          ["", "best epoch"],
          ["last", "last epoch"],
        ],
        state.by,
        (by) => setState({ by }),
      )
    : null;
const ofTest = (metric) =>
  metric.startsWith("test/") ? `ranked by ${metric}: the best of many test scores is optimistic` : "";

function valueOf(run, key) {
  if (key in run.config) return run.config[key];
  if (state.by !== "last" && bestName(key) in run.summary) return run.summary[bestName(key)];
  if (key in run.summary) return run.summary[key];
  return Object.hasOwn(OWN_FIELDS, key) ? OWN_FIELDS[key](run) : null;
}

const textOf = (value) =>
  value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
// The text of a key of a run, and those that occur in a list, numbers in their order.
const textBy = (run, key) => textOf(valueOf(run, key));
const byValue = (one, other) => {
  const [a, b] = [Number(one), Number(other)];
  return Number.isNaN(a) || Number.isNaN(b) ? one.localeCompare(other, undefined, { numeric: true }) : a - b;
};
const valuesOf = (list, key) => [...new Set(list.map((run) => textBy(run, key)))].sort(byValue);

const lastName = (key) => key.slice(key.lastIndexOf(".") + 1);
const isSeed = remembered((key) => /(^|[._])seed$/.test(key));

// Keys of vae_exp's runs that change no result, or are shown elsewhere.
const HOUSEKEEPING =
  /^(overrides|swept|sweep|tracker|checkpoint|evaluator|run_directory|resume|trust|trusted_packages|data\.(source\.)?root|data\.(resident|preload_to_device))(\.|$)/;
const isHousekeeping = remembered((key) => HOUSEKEEPING.test(key));
const isOurs = (run) => "run_directory" in run.config;

// The keys of the config that differ among the runs that have them; of those that always go together and end alike,
// the shortest.
const listSignature = (list) => `${store} ${cursor} ${list.map((run) => run.key).join(" ")}`;
const keysOfLists = new Map();
function varyingKeys(list) {
  const which = listSignature(list);
  if (!keysOfLists.has(which)) {
    if (keysOfLists.size >= 8) keysOfLists.clear();
    keysOfLists.set(which, findVaryingKeys(list));
  }
  return keysOfLists.get(which);
}

function findVaryingKeys(list) {
  if (list.length < 2) return [];
  const others = list.filter((run) => !isOurs(run));
  const order = [...variants.keys()].filter(
    (key) => variants.get(key).varies && (isHousekeeping(key) ? others : list).some((run) => key in run.config),
  );
  const representatives = new Map();
  for (const key of [...order].sort((a, b) => a.length - b.length || a.localeCompare(b))) {
    const texts = list.map((run) => textOf(run.config[key]));
    if (new Set(texts.filter((_, index) => key in list[index].config)).size < 2) continue;
    if ([...representatives.values()].some((group) => key.startsWith(`${group}.`) && followsFrom(list, group, texts)))
      continue;
    const signature = `${lastName(key)}\n${texts.join("\u001f")}`;
    if (!representatives.has(signature)) representatives.set(signature, key);
  }
  return [...representatives.values()].sort((a, b) => isSeed(a) - isSeed(b) || order.indexOf(a) - order.indexOf(b));
}

// Groups of keys of which any determines the others.
function keysTogether(list, keys) {
  const textsOf = (key) => list.map((run) => textOf(run.config[key]));
  return keys.reduce((groups, key) => {
    const same = groups.find(
      ([first]) => followsFrom(list, first, textsOf(key)) && followsFrom(list, key, textsOf(first)),
    );
    if (same) same.push(key);
    else groups.push([key]);
    return groups;
  }, []);
}

// Whether the value of a key, such as the config group `loss`, determines these texts.
function followsFrom(list, group, texts) {
  const seen = new Map();
  return list.every((run, index) => {
    const value = textOf(run.config[group]);
    if (!seen.has(value)) seen.set(value, texts[index]);
    return seen.get(value) === texts[index];
  });
}

function metricNames(list) {
  const names = new Set([...new Set(list.map((run) => run.metrics))].flat());
  const rank = (name) => {
    const index = PREFERRED.indexOf(name);
    return index < 0 ? PREFERRED.length : index;
  };
  return [...names].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
}

function mainMetric(list) {
  if (state.metric && list.some((run) => state.metric in run.summary)) return state.metric;
  const names = metricNames(list);
  return RANKED_BY.find((name) => names.includes(name)) ?? names[0] ?? "";
}
function number(run, key) {
  const value = valueOf(run, key);
  return typeof value === "number" ? value : NaN;
}

const finite = (list, ...metrics) =>
  list.filter((run) => metrics.every((metric) => Number.isFinite(number(run, metric))));
const mean = (numbers) => numbers.reduce((sum, item) => sum + item, 0) / numbers.length;
const deviation = (numbers) =>
  Math.sqrt(numbers.reduce((sum, item) => sum + (item - mean(numbers)) ** 2, 0) / (numbers.length - 1));
const isFinished = (run) => run.state === "finished";

// The setting of a run, which runs that differ only in seeds share: its config without seeds and housekeeping.
function settingOf(run) {
  run.setting ??= settingsText(run, (key) => !isSeed(key) && !(isOurs(run) && isHousekeeping(key)));
  return run.setting;
}

// How the table and the charts group runs: by their setting, or by the key that is `state.group`.
const BY_SETTING = "1"; // what differs in seeds alone is a group
const groupOf = (run, group) => (group === BY_SETTING ? settingOf(run) : textBy(run, group));
const groupKeys = (list) => [
  ...varyingKeys(list),
  ...["group", "state"].filter((key) => valuesOf(list, key).length > 1),
];
const groupChoice = (keys) =>
  choice(
    "Group by",
    [["", "–"], [BY_SETTING, "all but seeds"], ...keys.map((key) => [key, key])],
    state.group,
    (group) => setState({ group }),
  );

function groupsBy(list, signature) {
  const groups = new Map();
  for (const run of list) {
    const value = signature(run);
    if (!groups.has(value)) groups.set(value, []);
    groups.get(value).push(run);
  }
  return [...groups.values()];
}

// Numbers mean what they mean in `vae_exp.sweep.aggregate`: of finished runs, the mean over the seeds of each setting with
// its standard error; then, over the keys that are not shown, the plain mean of the settings or the best of them.
function estimateOf(members, metric) {
  const numbers = members.map((run) => number(run, metric));
  return {
    members,
    mean: mean(numbers),
    error: numbers.length > 1 ? deviation(numbers) / Math.sqrt(numbers.length) : NaN,
  };
}

const estimatesOf = (list, metric) =>
  groupsBy(finite(list.filter(isFinished), metric), settingOf).map((members) => estimateOf(members, metric));

// The number for runs that share the shown keys; null if none has the metric. `criterion` decides which setting is best.
function combined(list, metric, criterion = metric) {
  let chosen = list;
  if (state.others === "best") {
    const sign = higher.has(criterion) ? -1 : 1;
    chosen = estimatesOf(list, criterion).sort((a, b) => sign * (a.mean - b.mean))[0]?.members ?? [];
  }
  const estimates = estimatesOf(chosen, metric);
  if (!estimates.length) return null;
  return {
    mean: mean(estimates.map((item) => item.mean)),
    error: Math.sqrt(estimates.reduce((sum, item) => sum + item.error ** 2, 0)) / estimates.length,
  };
}

// Describe a number over some keys: over how many seeds, and over which other keys.
function meaningOf(list, shownKeys, metric) {
  const finished = finite(list.filter(isFinished), metric);
  const rows = groupsBy(finished, (run) => JSON.stringify(shownKeys.map((key) => textOf(valueOf(run, key)))));
  const counts = rows
    .flatMap((row) => estimatesOf(row, metric).map((item) => item.members.length))
    .sort((a, b) => a - b);
  if (!counts.length) return "";
  const [least, most] = [counts[0], counts.at(-1)];
  const seeds = most === 1 ? "one seed each" : `mean over ${least === most ? most : `${least} to ${most}`} seeds`;
  if (counts.length === rows.length) return seeds;
  const rest = varyingKeys(finished).filter(
    (key) =>
      !isSeed(key) &&
      !shownKeys.includes(key) &&
      rows.some((row) => new Set(row.map((run) => textOf(run.config[key]))).size > 1),
  );
  const isMixed = rows.some((row) => new Set(row.map(comparableOf)).size > 1);
  return `${seeds}; ${state.others || "mean"} over ${rest.join(", ") || "other keys"}${isMixed ? " (different data or likelihoods)" : ""}`;
}

const othersChoice = () =>
  choice(
    "Other keys",
    [
      ["", "mean"],
      ["best", "best"],
    ],
    state.others,
    (others) => setState({ others }),
  );

// Metrics compare runs of the same data and likelihood, whose config has these keys.
const COMPARABLE = /^(data|model\.likelihood)(\.|$)/;
const isCompared = remembered((key) => COMPARABLE.test(key) && !isHousekeeping(key) && !isSeed(key));
const settingsText = (run, isIncluded) =>
  sameText(
    JSON.stringify(
      Object.entries(run.given)
        .filter(([key]) => isIncluded(key))
        .sort(([a], [b]) => (a < b ? -1 : 1)),
    ),
  );

function comparableOf(run) {
  run.comparable ??= settingsText(run, isCompared);
  return run.comparable;
}

const asSentences = (parts, hint) => [parts.filter(Boolean).join("; "), hint].filter(Boolean).join(". ");
const comparisonHint = (list) =>
  new Set(list.map(comparableOf)).size > 1
    ? "These runs have different data or likelihoods, so their values cannot be compared."
    : "";

// Run → label of its group. Only finished runs: the last value of any other is not its result. Where not all runs can be
// compared, the best of every group of at least two that can; the label is empty if there is one group.
function bestRuns(list, metric) {
  const groups = groupsBy(list, comparableOf);
  const sign = higher.has(metric) ? -1 : 1;
  const keys = findLabelKeys(
    groups.map(([run]) => run),
    varyingKeys(list).filter(isCompared),
  );
  const best = new Map();
  for (const members of groups) {
    const measured = finite(members.filter(isFinished), metric);
    const numbers = measured.map((run) => sign * number(run, metric));
    const first = measured[numbers.indexOf(numbers.reduce((a, b) => Math.min(a, b), Infinity))];
    if (first && (measured.length > 1 || groups.length === 1))
      best.set(first, groups.length > 1 ? labelOf(first, keys) : "");
  }
  return best;
}

// Run → the metrics of which it has the best value of all finished runs that can be compared with it → how many these
// are.
// Where all are equal, none is the best.
function bestValues(list, metrics) {
  const best = new Map();
  const kinds = groupsBy(list.filter(isFinished), comparableOf);
  const kindsOfLoss = kinds.flatMap((members) => groupsBy(members, (run) => kindOf(run, "loss")));
  for (const metric of metrics.filter((key) => ranked.has(key))) {
    for (const members of isLoss(metric) ? kindsOfLoss : kinds) {
      const numbers = members.map((run) => number(run, metric));
      const count = numbers.filter(Number.isFinite).length;
      for (const run of ofBest(members, metric, numbers)) {
        if (!best.has(run)) best.set(run, new Map());
        best.get(run).set(metric, count);
      }
    }
  }
  return best;
}

// Different losses minimise different things.
const isLoss = remembered((metric) => /(^|\/)loss$/.test(metric));
const isOfLoss = remembered((key) => /^loss(\.|$)/.test(key) && !isSeed(key));
function kindOf(run, metric) {
  if (!isLoss(metric)) return comparableOf(run);
  run.kindOfLoss ??= sameText(comparableOf(run) + settingsText(run, isOfLoss));
  return run.kindOfLoss;
}

function ofBest(items, metric, numbers) {
  let [least, most] = [Infinity, -Infinity];
  for (const value of numbers.filter(Number.isFinite)) [least, most] = [Math.min(least, value), Math.max(most, value)];
  return least < most ? items.filter((_, index) => numbers[index] === (higher.has(metric) ? most : least)) : [];
}

// `model.latent_dim>=8 state=finished "a name"`: terms that must all hold.
const TERM = /^(.+?)(>=|<=|!=|==|=|>|<|~)(.*)$/s;
const COMPARISONS = {
  ">=": (a, b) => a >= b,
  "<=": (a, b) => a <= b,
  ">": (a, b) => a > b,
  "<": (a, b) => a < b,
  "=": (a, b) => a === b,
  "==": (a, b) => a === b,
  "!=": (a, b) => a !== b,
};

function filterOf(text) {
  const terms = text.match(/(?:[^\s"]+|"[^"]*")+/g) ?? [];
  const problems = [];
  const tests = terms.map((raw) => {
    const term = raw.replaceAll('"', "");
    const match = term.match(TERM);
    if (!match)
      return (run) =>
        `${run.label} ${run.name} ${run.group} ${run.key} ${run.tags.join(" ")}`
          .toLowerCase()
          .includes(term.toLowerCase());
    const [, name, sign, expected] = match;
    const [key, ...others] = keysCalled(name);
    if (key === undefined || others.length) {
      problems.push(key === undefined ? `no run has “${name}”` : `“${name}” is ${key} or ${others.join(" or ")}`);
      return () => false;
    }
    if (sign === "~")
      return (run) =>
        [textOf, shown].some((format) => format(valueOf(run, key), key).toLowerCase().includes(expected.toLowerCase()));
    const asNumber = expected.trim() === "" ? NaN : Number(expected);
    const isOrder = !["=", "==", "!="].includes(sign);
    if (isOrder && Number.isNaN(asNumber)) {
      problems.push(`“${expected}” is no number to compare ${name} with`);
      return () => false;
    }
    return (run) => {
      const value = valueOf(run, key);
      if (typeof value === "number" && !Number.isNaN(asNumber)) return COMPARISONS[sign](value, asNumber);
      if (isOrder) return false;
      const same = textOf(value) === expected || shown(value, key) === expected;
      return sign === "!=" ? !same : same;
    };
  });
  return { passes: (run) => tests.every((test) => test(run)), problems };
}

// A key by its whole name or by its end, such as `latent_dim`; of several with this end, the one that is a column.
let namesAt = "";
let names = new Set();
function keysCalled(name) {
  if (namesAt !== `${store} ${cursor}`) {
    names = new Set(Object.keys(OWN_FIELDS));
    for (const run of runs.values())
      for (const part of [run.config, run.summary]) Object.keys(part).forEach((key) => names.add(key));
    namesAt = `${store} ${cursor}`;
  }
  if (names.has(name)) return [name];
  const ending = [...names].filter(
    (key) => !OVERRIDES.test(key) && !key.startsWith("best/") && (key.endsWith(`.${name}`) || key.endsWith(`/${name}`)),
  );
  const columns = ending.length > 1 ? ending.filter((key) => varyingKeys(currentRuns()).includes(key)) : [];
  return columns.length === 1 ? columns : ending;
}

// By the first key of `sort`, runs that are equal in it by the next one; `-key` is descending.
const { compare: compareTexts } = new Intl.Collator(undefined, { numeric: true });
function ordered(list, sort) {
  const orders = listOf(sort).map((item) => (item.startsWith("-") ? [item.slice(1), -1] : [item, 1]));
  const rows = list.map((run) => [run, ...orders.map(([key]) => valueOf(run, key))]);
  return rows
    .sort((one, other) =>
      orders.reduce((result, [, sign], index) => result || compareValues(one[index + 1], other[index + 1], sign), 0),
    )
    .map(([run]) => run);
}

// W&B writes numbers that are not finite as these words.
const WORDS = new Map([
  ["NaN", NaN],
  ["Infinity", Infinity],
  ["-Infinity", -Infinity],
]);
function compareValues(one, other, sign) {
  const [a, b] = [WORDS.get(one) ?? one, WORDS.get(other) ?? other];
  if (a === b) return 0; // of infinities too
  if (typeof a === "number" && typeof b === "number" && a === a && b === b) return sign * (a - b);
  const missing = (value) => value === null || value === undefined || value === "" || Number.isNaN(value);
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  return sign * compareTexts(textOf(a), textOf(b));
}

// The last attempt at each job.
const currentRuns = () => [...runs.values()].filter((run) => !run.replaced);
// Only then is the first run of a list sure to stay the first, unless another one starts.
const isAllRead = () => store !== null && !waiting;
const filteredRuns = () => ordered(currentRuns().filter(filterOf(state.filter).passes), state.sort);

const noRunText = () =>
  currentRuns().length
    ? "No run passes the filter."
    : waiting
      ? "The first runs are being read."
      : "There are no runs yet.";

// The runs of the pages other than the table: the selected ones that pass the filter, or all that pass it.
function chosenRuns() {
  const selected = new Set(listOf(state.selected));
  const list = filteredRuns();
  const some = list.filter((run) => selected.has(run.key));
  return some.length ? some : list;
}

// The keys in labels of groups: if labels with all varying keys are long, only as many as distinguish the runs.
const LONG_LABEL = 48;
const keysOfLabels = new Map();
function labelKeys(list) {
  const which = listSignature(list);
  if (!keysOfLabels.has(which)) {
    if (keysOfLabels.size >= 8) keysOfLabels.clear();
    keysOfLabels.set(which, findLabelKeys(list, varyingKeys(list)));
  }
  return keysOfLabels.get(which);
}

function findLabelKeys(list, keys) {
  if (!list.some((run) => labelOf(run, keys).length > LONG_LABEL)) return keys;
  const count = (some) => new Set(list.map((run) => JSON.stringify(some.map((key) => textOf(run.config[key]))))).size;
  const chosen = new Set();
  for (const candidates of [keys.filter((key) => !isSeed(key)), keys]) {
    // seeds last: labels of means leave them out
    const all = count([...chosen, ...candidates]);
    while (count([...chosen]) < all) {
      const counts = new Map(candidates.map((key) => [key, count([...chosen, key])]));
      chosen.add(candidates.reduce((best, key) => (counts.get(key) > counts.get(best) ? key : best)));
    }
  }
  return keys.filter((key) => chosen.has(key));
}

// A short label that distinguishes the group of a run from others: overrides of a sweep as
// `vae_exp.configuration.naming` names them.
function labelOf(run, keys) {
  const parts = keys
    .filter((key) => key in run.config)
    .map((key) => (run.overrides[key] ?? [nameOf(key, keys), shown(run.config[key], key)]).join("="));
  return parts.length ? parts.join(" ") : run.label;
}

function nameOf(key, keys) {
  if (key.endsWith("_target_")) return key.split(".").at(-2);
  const short = (name) => name.slice(name.indexOf(".") + 1);
  return keys.some((other) => other !== key && short(other) === short(key)) ? key : short(key);
}
