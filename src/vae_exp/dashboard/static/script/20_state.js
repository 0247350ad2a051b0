// The state of the view, all of it in the address's fragment, so that a bookmark stores a view.

const DEFAULTS = {
  page: "runs", filter: "", sort: "-started", group: "", columns: "", selected: "", metrics: "", against: "epoch",
  log: "", smooth: "0", seeds: "", isolate: "", metric: "", key: "", rows: "", cols: "", picture: "", epoch: "",
  every: "", run: "", other: "", all: "", others: "", by: "", plane: "", z: "", image: "", label: "", panels: "", compare: "",
};
const SEPARATOR = "\u001f";

const state = { ...DEFAULTS };
const stateListeners = [];

function readFragment() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  let changed = false;
  for (const [name, initial] of Object.entries(DEFAULTS)) {
    const value = fragment.get(name) ?? initial;
    if (state[name] !== value) { state[name] = value; changed = true; }
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
  const address = fragmentWith(patch);
  if ("page" in patch || "run" in patch) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
  readFragment();
}

const listOf = (text) => (text ? text.split(SEPARATOR) : []);
const asList = (values) => values.join(SEPARATOR);
addEventListener("hashchange", readFragment);
addEventListener("popstate", readFragment);
