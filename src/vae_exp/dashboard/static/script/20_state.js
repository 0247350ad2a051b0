// What is looked at, all of it in the address's fragment, so that a view can be kept as a bookmark.

const DEFAULTS = {
  page: "runs", filter: "", sort: "-started", group: "", columns: "", selected: "", metrics: "", against: "epoch",
  log: "", smooth: "0", seeds: "", isolate: "", metric: "", key: "", rows: "", cols: "", picture: "", epoch: "",
  every: "", run: "", other: "", all: "", others: "",
};
const SEPARATOR = "\u001f";

const state = { ...DEFAULTS };
const stateListeners = [];

function readFragment() {
  const given = new URLSearchParams(location.hash.slice(1));
  let changed = false;
  for (const [name, usual] of Object.entries(DEFAULTS)) {
    const value = given.get(name) ?? usual;
    if (state[name] !== value) { state[name] = value; changed = true; }
  }
  if (changed) stateListeners.forEach((listener) => listener());
}

function fragmentWith(patch) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries({ ...state, ...patch })) {
    if (value !== DEFAULTS[name]) words.set(name, value);
  }
  return `#${words}`;
}

// A new page is a step that "back" takes back; anything else replaces the address.
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
