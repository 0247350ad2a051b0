// The note of a run: shown wherever the run is, and edited if the server was started with --allow-notes.

const notesToken = document.querySelector('meta[name="notes-token"]')?.content ?? "";
const drafts = new Map(); // run → the text that is not saved, and the version of the note that it began with
addEventListener("beforeunload", (event) => {
  if (drafts.size) event.preventDefault();
});

const firstLine = (text) => text.trim().split("\n", 1)[0];
const withNotes = (list) => (list.some((run) => run.note) ? ["notes"] : []);

function noteEditor(box) {
  let [run, note] = [null, null];
  const area = el("textarea", {
    rows: 2,
    "aria-label": "Notes on this run",
    placeholder: "What to remember of this run",
    on: {
      input: edit,
      keydown: (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
      },
    },
  });
  const button = el("button", { type: "button", title: "Ctrl+Enter", on: { click: save } }, "Save");
  const status = el("span", { class: "quiet", role: "status" });
  const controls = el("div", { class: "controls" }, button, status);
  const others = el("div", { class: "wall" });
  const text = el("p", { class: "lines" });
  const title = el("h2", {}, "Notes");

  function edit() {
    if (area.value === withNewlines(note.text)) drafts.delete(run.key);
    else drafts.set(run.key, { text: area.value, version: drafts.get(run.key)?.version ?? note.version });
    status.textContent = drafts.has(run.key) ? "Not saved yet" : "";
    show();
  }
  async function save() {
    const [key, sent] = [run.key, area.value];
    status.textContent = "Saving …";
    try {
      const saved = await source.saveNote(key, sent, note.version);
      const now = run.key === key ? area.value : (drafts.get(key)?.text ?? sent);
      if (now === sent) drafts.delete(key);
      else drafts.set(key, { text: now, version: saved.version });
      if (run.key === key) {
        note = { ...saved, problem: "" };
        status.textContent = now === sent ? "Saved" : "Not saved yet";
        show();
      }
    } catch (error) {
      if (run.key === key) status.textContent = `Not saved: ${error.message}`;
    }
  }
  // What is typed stays, whatever the file has become.
  function show() {
    const draft = drafts.get(run.key);
    const isOther = draft && draft.version !== note.version;
    const take = () => {
      drafts.delete(run.key);
      area.value = note.text;
      edit();
      area.focus();
    };
    refill(
      others,
      isOther
        ? [
            el(
              "p",
              { class: "warning" },
              "The note has changed elsewhere to the text below. Save replaces it by yours.",
            ),
            el("pre", { tabindex: "0", "aria-label": "The changed note" }, note.text || "(empty)"),
            el("div", {}, el("button", { type: "button", on: { click: take } }, "Take the changed note")),
          ]
        : [],
    );
  }
  return (newRun, newNote) => {
    const isNew = run?.key !== newRun.key;
    [run, note] = [newRun, newNote];
    const draft = drafts.get(run.key);
    const now = draft?.text ?? withNewlines(note.text);
    if (area.value !== now) area.value = now;
    if (isNew) status.textContent = draft ? "Not saved yet" : "";
    show();
    text.textContent = note.text;
    const isEdited = notesToken && (!note.problem || draft);
    const reason = notesToken && note.problem ? el("p", { class: "quiet" }, `Not edited here: ${note.problem}`) : null;
    const parts = isEdited
      ? [title, area, controls, others]
      : note.text || reason
        ? [title, note.text ? text : null, reason]
        : [];
    const signature = `${Boolean(isEdited)} ${Boolean(note.text)} ${reason?.textContent}`;
    if (box.dataset.shown !== signature)
      refill(box, parts.length ? el("section", { class: "panel", "aria-label": "Notes" }, parts) : null);
    box.dataset.shown = signature;
  };
}

const withNewlines = (text) => text.replace(/\r\n?/g, "\n"); // as a text field has them
