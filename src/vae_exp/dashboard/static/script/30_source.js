// The source of the numbers: the server, or the data embedded by the export.

const embedded = (() => {
  const element = document.getElementById("embedded");
  return element ? JSON.parse(element.textContent) : null;
})();
if (embedded) DEFAULTS.page = embedded.page;

async function fetchOk(path, params = [], options = {}) {
  const answer = await fetch(params.length ? `${path}?${new URLSearchParams(params)}` : path, options);
  if (!answer.ok) {
    const message = (await answer.text()).trim() || `${path}: ${answer.status}`;
    throw Object.assign(new Error(message), { status: answer.status });
  }
  return answer;
}

const fetchJson = async (path, params = [], options = {}) => (await fetchOk(path, params, options)).json();
const POLL_TIMEOUT_MILLISECONDS = 10_000;
const toBase64 = (bytes) =>
  btoa(String.fromCharCode(...bytes))
    .replaceAll("+", "-")
    .replaceAll("/", "_");
const fromBase64 = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

const served = {
  live: true,
  changes: (since) =>
    fetchJson("api/runs", [["since", since]], { signal: AbortSignal.timeout(POLL_TIMEOUT_MILLISECONDS) }),
  curves: async (runs, metrics, against) => {
    const params = [
      ["against", against],
      ...runs.map((run) => ["run", run]),
      ...metrics.map((metric) => ["metric", metric]),
    ];
    return (await fetchJson("api/curves", params)).curves;
  },
  pictures: async (runs) =>
    (
      await fetchJson(
        "api/pictures",
        runs.map((run) => ["run", run]),
      )
    ).pictures,
  details: (run) => fetchJson(`api/run/${encodeURIComponent(run)}`),
  saveNote: async (run, text, version) =>
    (
      await fetchOk(`api/notes/${encodeURIComponent(run)}`, [], {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-Notes-Token": notesToken },
        body: JSON.stringify({ text, version }),
      })
    ).json(),
  address: (run, picture) => `media/${encodeURIComponent(run)}/${picture.n}?${picture.mark}`,
  explorable: async () => (await fetchJson("api/latent")).runs,
  bundle: async (run) => unpackBundle(await (await fetchOk(`api/latent/${encodeURIComponent(run)}`)).arrayBuffer()),
  decode: async (run, version, latents, label) =>
    new Uint8Array(
      await (
        await fetchOk(`api/latent/${encodeURIComponent(run)}/image`, [
          ["version", version],
          ["z", toBase64(new Uint8Array(latents.buffer))],
          ["label", label],
        ])
      ).arrayBuffer(),
    ),
};

const exported = embedded && {
  live: false,
  changes: async (since) => ({ ...embedded.changes, runs: since === 0 ? embedded.changes.runs : [] }),
  curves: async (runs, metrics, against) =>
    embedded.curves[against].filter((item) => runs.includes(item.run) && metrics.includes(item.metric)),
  pictures: async (runs) => Object.fromEntries(runs.map((run) => [run, embedded.pictures[run] ?? []])),
  details: async (run) => embedded.details[run],
  address: (run, picture) => picture.data,
  explorable: async () => embedded.latent.map(({ key, name }) => ({ key, name })),
  bundle: async (run) => unpackBundle(fromBase64(embedded.latent.find((item) => item.key === run).bundle).buffer),
};

const source = exported ?? served;
