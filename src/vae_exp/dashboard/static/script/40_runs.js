// The runs that are known, and what follows from them: columns that vary, filters, order, colours, the best one.

const runs = new Map();
const higher = new Set();
const dataListeners = [];
let store = null;
let cursor = 0;
let notes = [];
let waiting = 0;

const PREFERRED = ["val/elbo", "test/nll", "val/nll", "val/loss", "val/rate", "val/distortion", "val/active_units", "train/elbo", "train/loss"];
const NOT_METRICS = new Set(["_runtime", "_timestamp", "_step", "epoch"]);

// With no keys but its own: a metric may be called "constructor".
const bare = (values) => Object.assign(Object.create(null), values);

// Sweeps of ours keep the words that were swept. One that is no key of the config has chosen a group of it: `loss=iwae`.
const SWEPT = "swept.";
function withWords(config) {
  for (const [key, value] of Object.entries(config)) {
    const word = key.slice(SWEPT.length);
    if (key.startsWith(SWEPT) && !(word in config)) config[word] = value;
  }
  return config;
}

// False if another server has answered: its cursor is another's, and everything must be asked for again.
function takeChanges(answer) {
  if (store !== null && answer.store !== store) {
    runs.clear();
    [store, cursor] = [null, 0];
    return false;
  }
  store = answer.store;
  answer.runs.forEach((run) => runs.set(run.key, { ...run, config: withWords(bare(run.config)), summary: bare(run.summary) }));
  answer.removed.forEach((key) => runs.delete(key));
  answer.higher.forEach((key) => higher.add(key));
  const moved = answer.runs.length > 0 || answer.removed.length > 0 || answer.waiting !== waiting;
  [cursor, notes, waiting] = [answer.cursor, answer.notes, answer.waiting];
  if (moved) { numberRuns(); dataListeners.forEach((listener) => listener()); }
  return true;
}

// A run keeps its colour and dash as long as no older run appears.
function numberRuns() {
  [...runs.values()].sort((a, b) => a.started - b.started || a.key.localeCompare(b.key)).forEach((run, index) => {
    run.colour = index % 8;
    run.dash = Math.floor(index / 8) % 4;
  });
}

const OWN_FIELDS = {
  name: (run) => run.name, state: (run) => run.state, group: (run) => run.group, project: (run) => run.project,
  type: (run) => run.type, id: (run) => run.id, started: (run) => run.started, tags: (run) => run.tags.join(" "),
  runtime: (run) => run.summary._runtime ?? null, epoch: (run) => run.summary.epoch ?? null, code: (run) => run.code,
};

function valueOf(run, key) {
  if (key in run.config) return run.config[key];
  if (key in run.summary) return run.summary[key];
  return Object.hasOwn(OWN_FIELDS, key) ? OWN_FIELDS[key](run) : null;
}

const textOf = (value) => value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);

function shown(value, key = "") {
  if (key.endsWith("_target_") && typeof value === "string") return lastName(value);
  if (typeof value !== "number") return textOf(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  const size = Math.abs(value);
  return size >= 1e5 || (size > 0 && size < 1e-3) ? value.toExponential(3) : Number(value.toPrecision(5)).toString();
}

const lastName = (key) => key.slice(key.lastIndexOf(".") + 1);
const isSeed = (key) => /(^|[._])seed$/.test(key);

// Of runs of ours: what changes no number, or is told elsewhere.
const HOUSEKEEPING = /^(swept|sweep|tracker|checkpoint|evaluator|run_directory|resume|trust|data\.root|data\.resident)(\.|$)/;
const isOurs = (run) => "run_directory" in run.config;

// The keys of the config that differ among the runs that have them; of those that always go together and end alike, the shortest.
const keysOfLists = new Map();
function varyingKeys(list) {
  const which = `${cursor} ${list.map((run) => run.key).join(" ")}`;
  if (!keysOfLists.has(which)) {
    if (keysOfLists.size >= 8) keysOfLists.clear();
    keysOfLists.set(which, findVaryingKeys(list));
  }
  return keysOfLists.get(which);
}

function findVaryingKeys(list) {
  if (list.length < 2) return [];
  const values = new Map();
  for (const run of list) {
    for (const key of Object.keys(run.config)) if (!values.has(key) && !(isOurs(run) && HOUSEKEEPING.test(key))) values.set(key, null);
  }
  const kept = new Map();
  for (const key of [...values.keys()].sort((a, b) => a.length - b.length || a.localeCompare(b))) {
    const texts = list.map((run) => textOf(run.config[key]));
    if (new Set(texts.filter((_, index) => key in list[index].config)).size < 2) continue;
    if ([...kept.values()].some((group) => key.startsWith(`${group}.`) && followsFrom(list, group, texts))) continue;
    const signature = `${lastName(key)}\n${texts.join("\u001f")}`;
    if (!kept.has(signature)) kept.set(signature, key);
  }
  const order = [...values.keys()];
  return [...kept.values()].sort((a, b) => isSeed(a) - isSeed(b) || order.indexOf(a) - order.indexOf(b));
}

// Whether the value of a group of the config, such as `loss`, decides these texts.
function followsFrom(list, group, texts) {
  const seen = new Map();
  return list.every((run, index) => {
    const word = textOf(run.config[group]);
    if (!seen.has(word)) seen.set(word, texts[index]);
    return seen.get(word) === texts[index];
  });
}

function metricNames(list) {
  const names = new Set();
  for (const run of list) run.keys.forEach((key) => NOT_METRICS.has(key) || names.add(key));
  for (const run of list) {
    for (const [key, value] of Object.entries(run.summary)) {
      if (typeof value === "number" && !NOT_METRICS.has(key) && !key.startsWith("figures/")) names.add(key);
    }
  }
  const rank = (name) => { const place = PREFERRED.indexOf(name); return place < 0 ? PREFERRED.length : place; };
  return [...names].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
}

const mainMetric = (list) => (state.metric && list.some((run) => state.metric in run.summary) ? state.metric : metricNames(list)[0] ?? "");
const number = (run, key) => (typeof valueOf(run, key) === "number" ? valueOf(run, key) : NaN);

// Of the finished runs: the last value of any other is not its result.
function bestRun(list, metric) {
  const having = list.filter((run) => run.state === "finished" && Number.isFinite(number(run, metric)));
  const sign = higher.has(metric) ? -1 : 1;
  return having.sort((a, b) => sign * (number(a, metric) - number(b, metric)))[0] ?? null;
}

// `model.latent_dim>=8 state=finished "a name"`: terms that must all hold.
const TERM = /^(.+?)(>=|<=|!=|==|=|>|<|~)(.*)$/s;
const COMPARISONS = {
  ">=": (a, b) => a >= b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, "<": (a, b) => a < b,
  "=": (a, b) => a === b, "==": (a, b) => a === b, "!=": (a, b) => a !== b,
};

function filterOf(text) {
  const terms = text.match(/(?:[^\s"]+|"[^"]*")+/g) ?? [];
  const problems = [];
  const tests = terms.map((raw) => {
    const term = raw.replaceAll('"', "");
    const found = term.match(TERM);
    if (!found) return (run) => `${run.name} ${run.group} ${run.key} ${run.tags.join(" ")}`.toLowerCase().includes(term.toLowerCase());
    const [, name, sign, wanted] = found;
    const key = keyCalled(name);
    if (key === null) { problems.push(`no run has “${name}”`); return () => false; }
    if (sign === "~") return (run) => [textOf, shown].some((words) => words(valueOf(run, key), key).toLowerCase().includes(wanted.toLowerCase()));
    const asNumber = wanted.trim() === "" ? NaN : Number(wanted);
    const isOrder = !["=", "==", "!="].includes(sign);
    if (isOrder && Number.isNaN(asNumber)) { problems.push(`“${wanted}” is no number to compare ${name} with`); return () => false; }
    return (run) => {
      const value = valueOf(run, key);
      if (typeof value === "number" && !Number.isNaN(asNumber)) return COMPARISONS[sign](value, asNumber);
      if (isOrder) return false;
      const same = textOf(value) === wanted || shown(value, key) === wanted;
      return sign === "!=" ? !same : same;
    };
  });
  return { passes: (run) => tests.every((test) => test(run)), problems };
}

// A key by its whole name, or by its end where only one has it, such as `latent_dim`.
let namesAt = "";
let names = new Set();
function keyCalled(name) {
  if (namesAt !== `${store} ${cursor}`) {
    names = new Set(Object.keys(OWN_FIELDS));
    for (const run of runs.values()) for (const part of [run.config, run.summary]) Object.keys(part).forEach((key) => names.add(key));
    namesAt = `${store} ${cursor}`;
  }
  if (names.has(name)) return name;
  const ending = [...names].filter((key) => !key.startsWith(SWEPT) && (key.endsWith(`.${name}`) || key.endsWith(`/${name}`)));
  return ending.length === 1 ? ending[0] : null;
}

function ordered(list, sort) {
  const descending = sort.startsWith("-");
  const key = descending ? sort.slice(1) : sort;
  const sign = descending ? -1 : 1;
  const missing = (value) => value === null || value === undefined || value === "" || Number.isNaN(value);
  return [...list].sort((one, other) => {
    const [a, b] = [valueOf(one, key), valueOf(other, key)];
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    return sign * textOf(a).localeCompare(textOf(b), undefined, { numeric: true });
  });
}

const filteredRuns = () => ordered([...runs.values()].filter(filterOf(state.filter).passes), state.sort);

// What the pages other than the table show: the selected of those that pass the filter, or all of them.
function chosenRuns() {
  const selected = new Set(listOf(state.selected));
  const list = filteredRuns();
  const some = list.filter((run) => selected.has(run.key));
  return some.length ? some : list;
}

// What tells a run from the others, in a few words.
function labelOf(run, keys) {
  const words = keys.filter((key) => key in run.config).map((key) => `${key.endsWith("_target_") ? key.split(".").at(-2) : lastName(key)}=${shown(run.config[key], key)}`);
  return words.length ? words.join(" ") : run.name;
}
