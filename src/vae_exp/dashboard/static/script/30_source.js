// Where the numbers come from: the server, or what was embedded when the page was exported.

const embedded = (() => {
  const found = document.getElementById("embedded");
  return found ? JSON.parse(found.textContent) : null;
})();

async function ask(path, words = []) {
  const answer = await fetch(words.length ? `${path}?${new URLSearchParams(words)}` : path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

const served = {
  live: true,
  changes: (since) => ask("api/runs", [["since", since]]),
  curves: async (runs, metrics, against) => {
    const words = [["against", against], ...runs.map((run) => ["run", run]), ...metrics.map((metric) => ["metric", metric])];
    return (await ask("api/curves", words)).curves;
  },
  pictures: async (runs) => (await ask("api/pictures", runs.map((run) => ["run", run]))).pictures,
  details: (run) => ask(`api/run/${encodeURIComponent(run)}`),
  address: (run, picture) => `media/${encodeURIComponent(run)}/${picture.n}?${picture.mark}`,
};

const exported = embedded && {
  live: false,
  changes: async (since) => ({ ...embedded.changes, runs: since === 0 ? embedded.changes.runs : [] }),
  curves: async (runs, metrics, against) => embedded.curves[against].filter((each) => runs.includes(each.run) && metrics.includes(each.metric)),
  pictures: async (runs) => Object.fromEntries(runs.map((run) => [run, embedded.pictures[run] ?? []])),
  details: async (run) => embedded.details[run],
  address: (run, picture) => picture.data,
};

const source = exported ?? served;
