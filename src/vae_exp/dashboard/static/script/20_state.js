// The state of the view, all of it in the address's fragment, so that a bookmark stores a view. A browser keeps the
// arrangement of the table too, for addresses that have none.

const DEFAULTS = {
  page: "runs",
  filter: "",
  sort: "-started",
  group: "",
  columns: "",
  selected: "",
  metrics: "",
  against: "epoch",
  log: "",
  smooth: "0",
  isolate: "",
  metric: "",
  key: "",
  rows: "",
  cols: "",
  picture: "",
  epoch: "",
  every: "",
  run: "",
  other: "",
  others: "",
  by: "",
  plane: "",
  z: "",
  image: "",
  label: "",
  panels: "",
  compare: "",
  pinned: "",
  tint: "",
  dash: "",
  facet: "",
  logx: "",
  range: "",
  zoom: "",
  sweep: "",
  across: "",
  up: "",
  brush: "",
};
const SEPARATOR = "\u001f";
const KEPT = ["columns", "pinned"];

const state = { ...DEFAULTS };
const stateListeners = [];

// A page opened from a file may have no storage.
function storage(action) {
  try {
    return action(localStorage);
  } catch {
    return null;
  }
}

function readFragment() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  let changed = false;
  for (const [name, initial] of Object.entries(DEFAULTS)) {
    const value =
      fragment.get(name) ??
      (KEPT.includes(name) ? storage((kept) => kept.getItem(`vae_exp ${name}`)) : null) ??
      initial;
    if (state[name] !== value) {
      state[name] = value;
      changed = true;
    }
  }
  if (changed) stateListeners.forEach((listener) => listener());
}

function fragmentWith(patch) {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries({ ...state, ...patch })) {
    if (value !== DEFAULTS[name]) params.set(name, value);
  }
  return `#${params}`;
}

// "Back" undoes a change of the page; anything else replaces the address.
function setState(patch) {
  for (const name of KEPT)
    if (name in patch)
      storage((kept) =>
        patch[name] ? kept.setItem(`vae_exp ${name}`, patch[name]) : kept.removeItem(`vae_exp ${name}`),
      );
  const address = fragmentWith(patch);
  if ("page" in patch || "run" in patch) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
  readFragment();
}

// What the page shows already: the address changes, and nothing is drawn.
function recordState(patch) {
  Object.assign(state, patch);
  history.replaceState(null, "", fragmentWith({}));
  showLinks();
}

const listOf = (text) => (text ? text.split(SEPARATOR) : []);
const asList = (values) => values.join(SEPARATOR);
addEventListener("hashchange", readFragment);
addEventListener("popstate", readFragment);
