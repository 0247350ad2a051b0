// Moving through the latent space of one run, or of two side by side.

const PRECISION = 4;
const LIST_MILLISECONDS = 10_000; // a run that trains may have its first checkpoint by then
const NONE_SERVED =
  "No run here can be opened: python -m vae_exp.explore run=DIR names one, or its folder lies below the folders of this page and has a checkpoint.";
const NONE_EXPORTED =
  "This file has no latent space. The command that writes it adds one with --explore RUN: python -m vae_exp.dashboard ROOT --explore RUN --export page.html";

let explorable = 0; // runs, those without W&B files too

function pageLatent(main) {
  const choices = el("div", { class: "controls of-runs" });
  const message = el("p", { class: "quiet", role: "status" });
  const views = el("div", { class: "latent-views" });
  refill(main, choices, message, views);
  const bundles = new Map();
  let signature = "";
  let shownList = "";
  let shownViews = [];
  let list = [];
  let listed = -Infinity;
  let applied = ""; // what the address says of latents: the views have it, whatever was moved since
  const save = (texts) => {
    applied = textOfLatents(texts);
    setState(texts);
  };
  const reopen = (key, bundle) => {
    if (bundles.get(key) !== bundle) return;
    bundles.delete(key);
    signature = "";
    refreshPage();
  };

  const load = async (key) => {
    if (!bundles.has(key)) bundles.set(key, await source.bundle(key));
    return bundles.get(key);
  };
  return async () => {
    if (performance.now() - listed > LIST_MILLISECONDS) {
      [list, listed] = [await source.explorable(), performance.now()];
      explorable = list.length;
      showStatus();
    }
    const run = list.find((item) => item.key === state.run) ?? list[0];
    if (!run) {
      message.textContent = source.live ? NONE_SERVED : NONE_EXPORTED;
      return;
    }
    if (!state.run && isAllRead()) recordState({ run: run.key }); // it stays when another run has a checkpoint
    const other = list.find((item) => item.key === state.other && item !== run);
    const [now, listNow] = [JSON.stringify([run.key, other?.key, state.plane]), JSON.stringify(list)];
    if (now !== signature || (listNow !== shownList && !isInUse(choices))) {
      shownList = listNow;
      refill(choices, latentChoices(list, run, other));
    }
    if (now !== signature) {
      // a run that cannot be opened is not tried again with every change of another one
      const kept = new Map(shownViews.map((view) => [view.key, view.latent]));
      [signature, shownViews] = [now, []];
      message.textContent = "Opening the run …";
      refill(views);
      const opened = [];
      for (const item of [run, other].filter(Boolean)) {
        try {
          opened.push([item, await load(item.key)]);
        } catch (error) {
          message.textContent = `${item.name}: ${error.message}`;
          return;
        }
      }
      message.textContent = explain(opened);
      shownViews = latentViews(opened, views, kept, save, reopen);
    }
    const isOther = textOfLatents(state) !== applied;
    applied = textOfLatents(state);
    shownViews.forEach((view) => view.restore(isOther));
  };
}

function latentChoices(list, run, other) {
  const title = (item) => [item.key, item.name];
  return [
    choice("Run", list.map(title), run.key, (key) => setState({ run: key, z: "", image: "", label: "", plane: "" })),
    list.length > 1
      ? choice("Beside", [["", "–"], ...list.filter((item) => item !== run).map(title)], other?.key ?? "", (key) =>
          setState({ other: key }),
        )
      : null,
    el("button", { type: "button", on: { click: (event) => copyLink(event.target) } }, "Copy link"),
  ];
}

async function copyLink(button) {
  try {
    await navigator.clipboard.writeText(location.href);
    button.textContent = "Link copied";
  } catch {
    button.textContent = "The address of this page is the link";
  }
}

function explain(opened) {
  const parts = opened.map(([run, bundle]) => {
    if (bundle.problem) return `Without images: ${bundle.problem}`;
    return `${opened.length > 1 ? `${run.name}: ` : ""}epoch ${bundle.epoch} (${bundle.checkpoint}), ${bundle.count("codes") || bundle.count("indices")} images of the ${bundle.split} split${bundle.decoder ? "" : "; decoded by the server"}`;
  });
  const [first, second] = opened.map(([, bundle]) => bundle.arrays.pixels);
  if (second && first && !sameNumbers(first.subarray(0, 4096), second.subarray(0, 4096)))
    parts.push("the two runs have different images");
  return parts.join("; ");
}

const sameNumbers = (one, other) => one.length === other.length && one.every((value, index) => value === other[index]);

// The views share the image, and nothing else: each has its own latents.
function latentViews(opened, container, kept, save, reopen) {
  let gallery = null;
  const views = opened.map(([run, bundle], index) =>
    latentView(run, bundle, kept.get(run.key), index === 0 ? save : null, reopen, () => gallery?.mark()),
  );
  gallery = imageStrip(opened[0][1], views);
  refill(
    container,
    gallery?.element,
    el(
      "div",
      { class: "latent-columns" },
      views.map((view) => view.element),
    ),
  );
  return views;
}

const textOfLatents = ({ z, image, label }) => JSON.stringify([z, image, label]);
const shortNumbers = (values) => [...values].map((value) => Number(value.toPrecision(PRECISION))).join(",");

// With the latents of an earlier view of the run, if any. The first view saves its latents in the address.
function latentView(run, bundle, earlier, save, reopen, onChange) {
  const picture = imageCanvas(bundle.image_shape, "Decoded image");
  const original = imageCanvas(bundle.image_shape, "Original image");
  const caption = el("p", { class: "quiet", role: "status" });
  const problem = el("p", { class: "warning", role: "status" });
  const onError = (error) => {
    problem.textContent = error.message;
  };
  const newDecoder = () => decoderOf(bundle, run.key, onError, () => reopen(run.key, bundle));
  const [decode, decodeLine] = [newDecoder(), newDecoder()]; // the one supersedes no image of the other
  const isCodebook = bundle.codebook !== null;
  const latent = { z: new Float32Array(bundle.latent_dim), label: 0, image: -1, codes: [], isPlaced: false };
  const saveSoon = debounce(() => {
    if (save && view.element.isConnected)
      save({
        z: isCodebook ? latent.codes.join(",") : shortNumbers(latent.z),
        image: latent.image < 0 ? "" : String(latent.image),
        label: bundle.classes ? String(latent.label) : "",
      });
  }, 250);
  const paint = (latents) =>
    decode(latents, latent.label, (values) => {
      picture.paint(values);
      picture.canvas.dataset.latents = latents.join(",");
      problem.textContent = "";
    });
  const controls = isCodebook ? codeControls(bundle, latent, changed) : unitControls(bundle, latent, changed, display);
  const line = el("figure", {});

  function display({ z, image }, note = "") {
    paint(z);
    original.canvas.hidden = image < 0;
    if (image >= 0) original.paint(pixelsOf(bundle, image));
    const text = [describe(bundle, { z, image, label: latent.label }), note].filter(Boolean).join(" ");
    if (image < 0 && text.length < caption.textContent.length)
      caption.style.minHeight = `${caption.getBoundingClientRect().height}px`; // what is below stays under the pointer
    caption.textContent = text;
  }
  function changed(isKept = false, note = "") {
    if (!isKept) latent.image = -1;
    display(latent, note);
    controls.show();
    if (label) label.querySelector("select").value = String(latent.label);
    onChange();
    saveSoon();
  }
  const view = {
    key: run.key,
    latent,
    image: () => latent.image,
    setImage: (index) => {
      if (hasImage(bundle, index)) takeImage(bundle, latent, index);
      changed(true, lackOf(bundle, index));
    },
    interpolate: (from, to) => {
      if (hasImage(bundle, to)) interpolate(bundle, latent, decodeLine, line, from, to);
      else display(latent, lackOf(bundle, to));
    },
    restore: (isOther) => {
      if (latent.isPlaced && !isOther) return;
      if (!latent.isPlaced && earlier) takeEarlier(bundle, latent, earlier);
      if (!latent.isPlaced || isOther) takeFromAddress(bundle, latent, save !== null);
      changed(true, lackOf(bundle, imageInAddress()));
    },
    element: null,
  };
  const names = Array.from({ length: bundle.classes }, (_, index) => [
    String(index),
    bundle.class_names?.[index] ?? String(index),
  ]);
  const label = bundle.classes
    ? choice("Class", names, "0", (value) => {
        latent.label = Number(value);
        changed(latent.image >= 0);
      })
    : null;
  const buttons = el(
    "div",
    { class: "controls" },
    el(
      "button",
      {
        type: "button",
        on: {
          click: () => {
            takeDraw(bundle, latent);
            changed();
          },
        },
      },
      "Random",
    ),
    label,
    el(
      "button",
      { type: "button", on: { click: () => savePicture([picture, original].filter((item) => !item.canvas.hidden)) } },
      "PNG",
    ),
  );
  view.element = el(
    "section",
    { class: "panel", "data-run": run.key },
    el("h2", {}, run.name),
    buttons,
    el(
      "div",
      { class: "latent-body" },
      el(
        "div",
        { class: "latent-pictures" },
        el("div", { class: "pair" }, picture.canvas, original.canvas),
        caption,
        problem,
        line,
      ),
      el("div", { class: "latent-map" }, controls.map),
      el("div", { class: "latent-units" }, controls.units),
    ),
    controls.below,
  );
  return view;
}

function describe(bundle, { z, image, label }) {
  if (image < 0)
    return bundle.codebook ? "" : `z = (${[...z.subarray(0, 8)].map(signed).join(", ")}${z.length > 8 ? ", …" : ""})`;
  if (bundle.classes && bundle.arrays.labels && label !== bundle.arrays.labels[image])
    return `${nameOfImage(bundle, image)}, decoded as ${nameOfClass(bundle, label)}. Right the original.`; // no scores
  const [elbo, rate, distortion] = ["elbo", "rate", "distortion"].map((key) => bundle.arrays[key][image]);
  return `${nameOfImage(bundle, image)}: −ELBO ${fixed(-elbo, 3)} = rate ${fixed(rate, 3)} + distortion ${fixed(distortion, 3)} nats. Right the original.`;
}

function nameOfImage(bundle, index) {
  const label = bundle.arrays.labels?.[index];
  return `Image ${index + 1}${label === undefined ? "" : ` of ${nameOfClass(bundle, label)}`}`;
}

const nameOfClass = (bundle, label) => bundle.class_names?.[label] ?? `class ${label}`;

// Another run may have more images than this one.
const hasImage = (bundle, index) => index < bundle.count("pixels");
const lackOf = (bundle, index) => (hasImage(bundle, index) ? "" : `This run has no image ${index + 1}.`);
const imageInAddress = () => (state.image === "" ? -1 : Number(state.image));

// What the address says; at first, where it says nothing, the first image or a draw.
function takeFromAddress(bundle, latent, isFirst) {
  const image = imageInAddress();
  const numbers = state.z.split(",").map(Number);
  const size = bundle.codebook ? product(bundle.codebook.grid) : bundle.latent_dim;
  if (image >= 0 && hasImage(bundle, image)) takeImage(bundle, latent, image);
  else if (isFirst && state.z !== "" && numbers.length === size && numbers.every(Number.isFinite)) {
    latent.image = -1;
    setLatents(bundle, latent, numbers);
  } else if (!latent.isPlaced) {
    if (bundle.count("pixels")) takeImage(bundle, latent, 0);
    else takeDraw(bundle, latent);
  }
  latent.isPlaced = true;
  if (state.label !== "" && bundle.classes) latent.label = Math.min(Number(state.label) || 0, bundle.classes - 1);
}

// The codes of an image are those of this bundle, which may be of a later epoch.
function takeEarlier(bundle, latent, { z, label, image, codes }) {
  if (z.length !== bundle.latent_dim || !hasImage(bundle, image)) return;
  if (image < 0) setLatents(bundle, latent, bundle.codebook ? codes : z);
  else takeImage(bundle, latent, image);
  Object.assign(latent, { image, label, isPlaced: true });
}

function setLatents(bundle, latent, numbers) {
  if (!bundle.codebook) {
    latent.z = Float32Array.from(numbers);
    return;
  }
  latent.codes = [...numbers].map((code) => Math.max(0, Math.min(bundle.codebook.codes - 1, Math.round(code))));
  const size = bundle.arrays.codebook.length / bundle.codebook.codes;
  latent.z = new Float32Array(bundle.latent_dim);
  latent.codes.forEach((code, position) => latent.z.set(bundle.row("codebook", code), position * size));
}

function takeImage(bundle, latent, index) {
  latent.image = index;
  if (bundle.classes && bundle.arrays.labels) latent.label = bundle.arrays.labels[index];
  setLatents(bundle, latent, bundle.codebook ? bundle.row("indices", index) : bundle.row("image_codes", index));
}

function takeDraw(bundle, latent) {
  latent.image = -1;
  const index = Math.floor(Math.random() * bundle.count("prior"));
  setLatents(
    bundle,
    latent,
    bundle.codebook
      ? Array.from({ length: product(bundle.codebook.grid) }, () => Math.floor(Math.random() * bundle.codebook.codes))
      : bundle.row("prior", index),
  );
}
