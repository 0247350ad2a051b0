// The pictures of all runs side by side, at one epoch or at all of them.

const MOST_RUNS_OF_PICTURES = 40;

function pageImages(main) {
  const showImages = imagesIn(main);
  return () => showImages(chosenRuns());
}

function imagesIn(box) {
  const controls = el("div", { class: "controls" });
  const message = el("p", { class: "quiet", role: "status" });
  const wall = el("div", { class: "wall" });
  refill(box, controls, message, wall);
  const cache = new Map();
  let menuSignature = "";
  let wallSignature = "";

  return async (all) => {
    const list = all.filter((run) => run.pictures > 0).slice(0, MOST_RUNS_OF_PICTURES);
    const stale = list.filter((run) => cache.get(run.key)?.version !== run.version);
    if (stale.length) {
      const fetched = await source.pictures(stale.map((run) => run.key));
      for (const run of stale) cache.set(run.key, { version: run.version, pictures: fetched[run.key] ?? [] });
    }
    const picturesOf = (run) => cache.get(run.key)?.pictures ?? [];
    const names = [...new Set(list.flatMap((run) => picturesOf(run).map((picture) => picture.name)))].sort();
    const name = names.includes(state.picture)
      ? state.picture
      : (names.find((item) => item.endsWith("reconstructions")) ?? names[0] ?? "");
    const moments = [
      ...new Set(
        list.flatMap((run) =>
          picturesOf(run)
            .filter((picture) => picture.name === name)
            .map(momentOf),
        ),
      ),
    ].sort((a, b) => a - b);
    const selected = state.epoch === "" ? Infinity : Number(state.epoch);
    const now = moments.filter((item) => item <= selected).at(-1) ?? moments[0] ?? 0;
    const signature = JSON.stringify([names, name, moments, state.every, now]);
    if (signature !== menuSignature) {
      refillControls(controls, names, name, moments, now);
      menuSignature = signature;
    }
    message.textContent = list.length
      ? `${name}, ${list.length} of ${all.length} runs${all.length > list.length ? ": the others have no pictures, or are too many" : ""}`
      : !all.length
        ? noRunText()
        : "No run has pictures yet; evaluator.figures.every_n_epochs=5 draws them during training.";
    const content = JSON.stringify([
      name,
      now,
      state.every,
      list.map((run) => [run.key, run.colour, picturesOf(run).length, run.label]),
    ]);
    if (content === wallSignature) return;
    wallSignature = content;
    refill(
      wall,
      state.every === "1"
        ? list.map((run) =>
            strip(
              run,
              picturesOf(run).filter((picture) => picture.name === name),
            ),
          )
        : el(
            "div",
            { class: "tiles" },
            list.map((run) =>
              tile(
                run,
                picturesOf(run).filter((picture) => picture.name === name && momentOf(picture) <= now),
              ),
            ),
          ),
    );
  };
}

const momentOf = (picture) => picture.epoch ?? picture.step;
const momentText = (picture) => `after ${picture.epoch === null ? "step" : "epoch"} ${momentOf(picture)}`;

function refillControls(controls, names, name, moments, now) {
  const slider = el("input", {
    type: "range",
    min: 0,
    max: Math.max(0, moments.length - 1),
    step: 1,
    value: Math.max(0, moments.indexOf(now)),
    id: "epoch-slider",
    "aria-label": "Epoch",
    "aria-valuetext": `epoch ${now}`,
    disabled: state.every === "1" || moments.length < 2,
    on: { input: () => setState({ epoch: String(moments[Number(slider.value)]) }) },
  });
  const focused = document.activeElement?.id === "epoch-slider";
  refill(
    controls,
    choice(
      "Picture",
      names.map((item) => [item, item.replace(/^figures\//, "")]),
      name,
      (picture) => setState({ picture }),
    ),
    el("label", {}, "Epoch", slider, el("output", {}, String(now))),
    tick("All epochs side by side", state.every === "1", (on) => setState({ every: on ? "1" : "" })),
  );
  if (focused) slider.focus();
}

function pictureOf(run, picture) {
  const label = `${run.label}: ${picture.name}, ${momentText(picture)}`;
  const image = el("img", {
    src: source.address(run.key, picture),
    alt: label,
    loading: "lazy",
    decoding: "async",
    on: {
      load: () => image.classList.toggle("crisp", image.naturalWidth < image.clientWidth),
      error: () => button.replaceWith(el("p", { class: "quiet" }, "The file is gone, or is no picture.")),
    },
  });
  const button = el(
    "button",
    { type: "button", class: "picture", title: "Enlarge", on: { click: () => enlarge(image, label) } },
    image,
  );
  return button;
}

// Show the picture in full size until Escape or a click.
function enlarge(image, label) {
  const close = el("button", { type: "button", autofocus: true }, "Close");
  const dialog = el(
    "dialog",
    { "aria-label": label, on: { click: () => dialog.close(), close: () => dialog.remove() } },
    close,
    el("p", {}, label),
    el("img", { src: image.src, alt: label, class: image.naturalWidth < 400 ? "crisp large" : null }),
  );
  document.body.append(dialog);
  dialog.showModal();
}

function titleOf(run) {
  const href = fragmentWith({ page: "run", run: run.key });
  return [swatch(run), " ", el("a", { href, "data-key": `title ${run.key}` }, run.label)];
}

function tile(run, pictures) {
  const last = momentOf(pictures.at(-1) ?? {});
  const shownNow = pictures.filter((picture) => momentOf(picture) === last);
  return el(
    "figure",
    { "data-run": run.key },
    el("figcaption", {}, titleOf(run), pictures.length ? ` · ${momentText(pictures.at(-1))}` : " · not drawn yet"),
    shownNow.map((picture) => [
      pictureOf(run, picture),
      picture.caption ? el("figcaption", {}, picture.caption) : null,
    ]),
  );
}

function strip(run, pictures) {
  return el(
    "section",
    { "data-run": run.key },
    el("h3", {}, titleOf(run)),
    el(
      "div",
      { class: "strip", tabindex: "0", role: "region", "aria-label": run.label },
      pictures.map((picture) =>
        el(
          "figure",
          {},
          pictureOf(run, picture),
          el("figcaption", {}, momentText(picture), picture.caption ? ` · ${picture.caption}` : ""),
        ),
      ),
    ),
  );
}
