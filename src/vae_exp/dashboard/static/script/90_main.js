// The current page, kept up to date while the tab is visible.

const PAGES = {
  runs: ["Runs", pageRuns],
  charts: ["Charts", pageCharts],
  sweep: ["Sweep", pageSweep],
  images: ["Images", pageImages],
  compare: ["Compare", pageCompare],
  run: ["Run", pageRun],
  latent: ["Latent space", pageLatent],
};
const POLL_MILLISECONDS = 1000;
const content = document.getElementById("content");
const statusLine = document.getElementById("status");
let mounted = "";
let update = () => {};
let drawing = false;
let again = false;
let mounts = 0; // how often a page was mounted: what an earlier one still waits for is of no use
let drawingProblem = ""; // until a drawing succeeds
let serverProblem = "";

function noteProblem(error) {
  console.warn(error);
  drawingProblem = `Could not be drawn: ${error.message}`;
}

const currentPage = () => (Object.hasOwn(PAGES, state.page) ? state.page : "runs");

function showLinks() {
  const page = currentPage();
  refill(
    document.getElementById("pages"),
    Object.entries(PAGES).map(([name, [title]]) =>
      el(
        "a",
        { href: fragmentWith({ page: name }), "data-key": name, "aria-current": name === page ? "page" : null },
        title,
      ),
    ),
  );
}

function showPage() {
  const page = currentPage();
  showLinks();
  if (page !== mounted) {
    content.querySelectorAll(".js-plotly-plot").forEach(clear);
    update = PAGES[page][1](content);
    mounted = page;
    mounts += 1;
    drawing = false;
    document.title = `${PAGES[page][0]} · vae_exp dashboard`;
  }
  refreshPage();
}

// One drawing at a time; changes in the meantime are drawn after it.
async function refreshPage() {
  if (drawing) {
    again = true;
    return;
  }
  drawing = true;
  const mount = mounts;
  do {
    again = false;
    let problem = null;
    try {
      if (!["runs", "latent"].includes(mounted)) await plotly();
      if (mount === mounts) await update();
    } catch (error) {
      problem = error;
    }
    if (mount !== mounts) return; // another page is drawn
    if (problem) noteProblem(problem);
    else drawingProblem = "";
    showStatus();
  } while (again);
  drawing = false;
}

const runCount = (count) => `${count} run${count === 1 ? "" : "s"}`;

// The filter, on the pages of several runs.
const filterField = document.getElementById("filter");
function showFilter() {
  document.getElementById("filter-bar").hidden = ["run", "latent"].includes(currentPage());
  if (document.activeElement !== filterField) filterField.value = state.filter;
  const { passes, problems } = filterOf(state.filter);
  const list = currentRuns().filter(passes);
  const keys = new Set(listOf(state.selected));
  const selected = list.filter((run) => keys.has(run.key)).length;
  document.getElementById("count").textContent = [
    `${list.length} of ${runCount(currentRuns().length)}`,
    selected ? `${selected} selected` : "",
    ...(runs.size ? problems : []),
  ]
    .filter(Boolean)
    .join(", ");
}

function showStatus() {
  const problem = serverProblem || drawingProblem;
  if (store === null && !problem) return;
  const current = currentRuns();
  const running = current.filter((run) => run.state === "running").length;
  const count = current.length
    ? runCount(current.length)
    : waiting
      ? "reading the first runs"
      : `no run with a W&B file${explorable ? `, ${runCount(explorable)} to explore` : ""}`;
  const parts = [
    count,
    running ? `${running} running` : "",
    waiting && current.length ? `${waiting} still to be read` : "",
    ...notes,
  ];
  const text = problem || parts.filter(Boolean).join(", ");
  if (statusLine.textContent !== text) statusLine.textContent = text;
  statusLine.classList.toggle("live", source.live && !problem && running > 0);
}

let polling = false;
let nextPoll = 0;
async function poll() {
  clearTimeout(nextPoll);
  if (polling || document.hidden) return;
  polling = true;
  const answer = await source.changes(cursor).catch((error) => console.debug(error));
  const isBack = answer && serverProblem;
  serverProblem = answer ? "" : "The server does not answer; the page is not up to date.";
  const wait = answer ? takeAnswer(answer) : 3 * POLL_MILLISECONDS;
  if (isBack && drawingProblem) refreshPage();
  showStatus();
  polling = false;
  if (source.live) nextPoll = setTimeout(poll, wait);
}

// Returns the milliseconds until the next poll.
function takeAnswer(answer) {
  try {
    if (!takeChanges(answer)) {
      mounted = ""; // what the page has stored has versions of the other server
      showPage();
      return 0;
    }
  } catch (error) {
    noteProblem(error);
  }
  setTimeout(() => plotly().catch(() => {}), 1000); // other pages will need it soon
  if (unsent > 0) return 0;
  return waiting && runs.size < 100 ? 200 : POLL_MILLISECONDS;
}

function applyTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  mounted = "";
  showPage();
}

stateListeners.push(showPage, showFilter, showStatus);
dataListeners.push(showFilter, refreshPage);
filterField.addEventListener(
  "input",
  debounce(() => setState({ filter: filterField.value }), 150),
);
document.getElementById("theme").addEventListener("change", (event) => applyTheme(event.target.value));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
  applyTheme(document.getElementById("theme").value),
);
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  content.focus();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) poll();
});
readFragment();
showPage();
showFilter();
poll();
