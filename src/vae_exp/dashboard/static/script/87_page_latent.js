// Moving through the latent space of one run, or of two side by side.

const MOST_SLIDERS = 64;
const INTERPOLATION_STEPS = 9;
const DEAD_RATE = 0.01; // nats per image, as the warning of a collapsed posterior has it
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
  let shownViews = [];
  let list = [];
  let listed = -Infinity;

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
    const other = list.find((item) => item.key === state.other && item !== run);
    const now = JSON.stringify([run.key, other?.key, state.plane, list.length]);
    if (now !== signature) {
      // a run that cannot be opened is not tried again with every change of another one
      [signature, shownViews] = [now, []];
      refill(choices, latentChoices(list, run, other));
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
      shownViews = latentViews(opened, views);
    }
    shownViews.forEach((view) => view.restore());
  };
}

function latentChoices(list, run, other) {
  const title = (item) => [item.key, item.name];
  return [
    choice("Run", list.map(title), run.key, (key) => setState({ run: key, z: "", image: "", plane: "" })),
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
function latentViews(opened, container) {
  let gallery = null;
  const views = opened.map(([run, bundle], index) => latentView(run, bundle, index === 0, () => gallery?.mark()));
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
  views.forEach((view) => {
    view.restore();
  });
  return views;
}

const pixelsOf = (bundle, index) => Float32Array.from(bundle.row("pixels", index), (value) => value / 255);
const textOfRate = (rate) => rate.toFixed(Math.abs(rate) < 0.1 ? 4 : 2); // on both sides of DEAD_RATE
const signed = (value) => value.toFixed(2).replace("-", "−");
const shortNumbers = (values) => [...values].map((value) => Number(value.toPrecision(PRECISION))).join(",");

function latentView(run, bundle, isFirst, onChange) {
  const picture = imageCanvas(bundle.image_shape, "Decoded image");
  const original = imageCanvas(bundle.image_shape, "Original image");
  const caption = el("p", { class: "quiet", role: "status" });
  const problem = el("p", { class: "warning", role: "status" });
  const decode = decoderOf(bundle, run.key, (error) => {
    problem.textContent = error.message;
  });
  const isCodebook = bundle.codebook !== null;
  const latent = { z: new Float32Array(bundle.latent_dim), label: 0, image: -1, codes: [] };
  const save = debounce(() => {
    if (isFirst)
      setState({
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

  function display({ z, image }) {
    paint(z);
    original.canvas.hidden = image < 0;
    if (image >= 0) original.paint(pixelsOf(bundle, image));
    const text = describe(bundle, { z, image });
    if (image < 0 && text.length < caption.textContent.length)
      caption.style.minHeight = `${caption.getBoundingClientRect().height}px`; // what is below stays under the pointer
    caption.textContent = text;
  }
  function changed(isKept = false) {
    if (!isKept) latent.image = -1;
    display(latent);
    controls.show();
    if (label) label.querySelector("select").value = String(latent.label);
    onChange();
    save();
  }
  const view = {
    image: () => latent.image,
    setImage: (index) => {
      takeImage(bundle, latent, index);
      changed(true);
    },
    interpolate: (from, to) => interpolate(bundle, latent, decode, line, from, to),
    restore: () => {
      if (restored(bundle, latent, isFirst)) changed(true);
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

function describe(bundle, { z, image }) {
  if (image < 0)
    return bundle.codebook ? "" : `z = (${[...z.subarray(0, 8)].map(signed).join(", ")}${z.length > 8 ? ", …" : ""})`;
  const [elbo, rate, distortion] = ["elbo", "rate", "distortion"].map((key) => bundle.arrays[key][image]);
  return `${nameOfImage(bundle, image)}: −ELBO ${fixed(-elbo, 3)} = rate ${fixed(rate, 3)} + distortion ${fixed(distortion, 3)} nats. Right the original.`;
}

function nameOfImage(bundle, index) {
  const label = bundle.arrays.labels?.[index];
  return `Image ${index + 1}${label === undefined ? "" : ` of ${bundle.class_names?.[label] ?? `class ${label}`}`}`;
}

// Whether the state names other latents than the view has.
function restored(bundle, latent, isFirst) {
  const isFresh = !latent.isPlaced;
  latent.isPlaced = true;
  const image = state.image === "" ? -1 : Math.min(Number(state.image), bundle.count("pixels") - 1);
  if (state.label !== "" && bundle.classes) latent.label = Math.min(Number(state.label) || 0, bundle.classes - 1);
  if (image >= 0 && (isFresh || image !== latent.image)) {
    takeImage(bundle, latent, image);
    return true;
  }
  if (isFirst && state.z !== "" && image < 0) {
    const numbers = state.z.split(",").map(Number);
    const now = bundle.codebook ? latent.codes : shortNumbers(latent.z).split(",").map(Number);
    if (
      numbers.length === (bundle.codebook ? product(bundle.codebook.grid) : bundle.latent_dim) &&
      numbers.every(Number.isFinite) &&
      !sameNumbers(numbers, [...now])
    ) {
      setLatents(bundle, latent, numbers);
      latent.image = -1;
      return true;
    }
  }
  if (isFresh && image < 0) {
    if (bundle.count("pixels")) takeImage(bundle, latent, 0);
    else takeDraw(bundle, latent);
  }
  return isFresh;
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

// The plane, and sliders for the other units, those with the highest rate first.
function unitControls(bundle, latent, changed, display) {
  const hasCodes = bundle.count("codes") > 0;
  const plane =
    bundle.latent_dim < 2
      ? null
      : planeOf(bundle, bundle.latent_dim === 2 || (!hasCodes && !state.plane) ? "0,1" : state.plane);
  const map =
    plane &&
    latentPlane(bundle, plane, {
      onPreview: (point) => {
        const shown = point ? { z: moved(plane, latent.z, point), image: -1 } : latent;
        display(shown);
        sliders.show(shown);
      },
      onChoose: (point) => {
        latent.z = moved(plane, latent.z, point);
        changed();
      },
    });
  const sliders = unitSliders(bundle, latent, plane?.units ?? [], changed);
  const units = Array.from({ length: Math.min(bundle.latent_dim, MOST_SLIDERS) }, (_, index) => [
    String(index),
    `z${index + 1}`,
  ]);
  const [first, second] = plane?.units.length ? plane.units.map(String) : ["", ""];
  const axisChoice = (label, now, make) =>
    choice(label, [...(hasCodes ? [["", "principal"]] : []), ...units], now, (value) =>
      setState({ plane: value === "" ? "pc" : make(value) }),
    );
  const axes =
    bundle.latent_dim > 2
      ? el(
          "div",
          { class: "controls" },
          axisChoice(
            "Across",
            first,
            (value) => `${value},${second && second !== value ? second : value === "0" ? 1 : 0}`,
          ),
          axisChoice("Up", second, (value) => `${first && first !== value ? first : value === "0" ? 1 : 0},${value}`),
        )
      : null;
  return {
    map: [axes, map?.figure, legendOfLabels(bundle)],
    units: sliders.element,
    below: null,
    show: () => {
      map?.show(latent.z);
      sliders.show(latent);
    },
  };
}

function unitSliders(bundle, latent, inPlane, changed) {
  const rates = bundle.unit_rates;
  const order = Array.from({ length: bundle.latent_dim }, (_, index) => index).filter(
    (unit) => !inPlane.includes(unit),
  );
  const weight = rates ?? bundle.unit_variances ?? [];
  order.sort((a, b) => (weight[b] ?? 0) - (weight[a] ?? 0));
  const reach = (bundle.arrays.image_codes ?? []).reduce((most, value) => Math.max(most, Math.abs(value)), 4);
  const most = Math.max(...(rates ?? [1]), 1e-9);
  const rows = order.slice(0, MOST_SLIDERS).map((unit) => {
    const slider = el("input", {
      type: "range",
      min: -reach,
      max: reach,
      step: 0.01,
      value: 0,
      "aria-label": `z${unit + 1}`,
      on: {
        input: () => {
          latent.z[unit] = Number(slider.value);
          changed();
        },
      },
    });
    const output = el("output", {});
    const ofImage = el("td", { class: "number of-image" });
    const isDead = rates ? rates[unit] < DEAD_RATE : bundle.active?.[unit] === false;
    const row = el(
      "tr",
      { class: isDead ? "dead" : null },
      el("th", { scope: "row" }, `z${unit + 1}`),
      el("td", {}, slider),
      el("td", { class: "number" }, output),
      rates
        ? el(
            "td",
            { class: "number rate" },
            el("meter", { min: 0, max: most, value: rates[unit], "aria-label": `rate of z${unit + 1}` }),
            ` ${textOfRate(rates[unit])}`,
          )
        : null,
      rates ? ofImage : null,
    );
    return {
      row,
      show: ({ z, image }) => {
        slider.value = z[unit];
        output.textContent = signed(z[unit]);
        ofImage.textContent =
          image >= 0 && bundle.arrays.image_rates ? bundle.row("image_rates", image)[unit].toFixed(2) : "";
      },
    };
  });
  const planeRates =
    rates && inPlane.length
      ? el(
          "p",
          { class: "quiet" },
          `On the plane: ${inPlane.map((unit) => `z${unit + 1}, rate ${textOfRate(rates[unit])}`).join("; ")} nats.`,
        )
      : null;
  const head = el(
    "thead",
    {},
    el(
      "tr",
      {},
      ["unit", "value", "", ...(rates ? ["rate, nats", "of this image"] : [])].map((text) =>
        el("th", { scope: "col", class: text === "of this image" ? "of-image" : null }, el("span", {}, text)),
      ),
    ),
  );
  const table = rows.length
    ? el(
        "div",
        { class: "scroll sliders", tabindex: "0", role: "region", "aria-label": "Latent units" },
        el(
          "table",
          {},
          head,
          el(
            "tbody",
            {},
            rows.map((item) => item.row),
          ),
        ),
      )
    : null;
  const grey = rows.some((item) => item.row.className === "dead")
    ? el(
        "p",
        { class: "quiet" },
        `Grey: ${rates ? `rate below ${DEAD_RATE} nats` : "codes with a variance of at most 0.01"}, next to nothing of the images.`,
      )
    : null;
  return {
    element: [
      planeRates,
      table,
      grey,
      order.length > MOST_SLIDERS
        ? el("p", { class: "quiet" }, `The first ${MOST_SLIDERS} of ${order.length} units.`)
        : null,
    ],
    show: (shown) => rows.forEach((item) => item.show(shown)),
  };
}

function legendOfLabels(bundle) {
  const labels = [...new Set(bundle.arrays.labels ?? [])].sort((a, b) => a - b);
  if (!labels.length || labels.length > 20) return null;
  return el(
    "p",
    { class: "legend" },
    labels.map((label) => {
      const dot = svg(
        "svg",
        { width: 11, height: 11, viewBox: "0 0 11 11", "aria-hidden": "true" },
        svg("circle", { cx: 5.5, cy: 5.5, r: 5, fill: LABEL_COLOURS[label % 10] }),
      );
      return el("span", { class: "label" }, dot, ` ${bundle.class_names?.[label] ?? label}`);
    }),
  );
}

// The grid of positions, and the entries of the codebook: choose a position, then what it holds.
function codeControls(bundle, latent, changed) {
  const [height, width] = bundle.codebook.grid;
  let position = 0;
  const positions = el("table", { class: "codes", "aria-label": "Codes of the image" });
  const entries = el("div", { class: "entries", role: "group", "aria-label": "Entries of the codebook" });
  const pictures = Array.from({ length: bundle.codebook.codes }, (_, code) => entryPicture(bundle, code));
  const buttons = pictures.map((picture, code) =>
    el(
      "button",
      {
        type: "button",
        class: "thumb",
        "aria-label": `Entry ${code}`,
        title: `Entry ${code}`,
        on: {
          click: () => {
            latent.codes[position] = code;
            setLatents(bundle, latent, latent.codes);
            changed();
          },
        },
      },
      picture ?? String(code),
    ),
  );
  entries.append(...buttons);
  const show = () => {
    refill(
      positions,
      el(
        "tbody",
        {},
        Array.from({ length: height }, (_, row) =>
          el(
            "tr",
            {},
            Array.from({ length: width }, (_, column) => {
              const index = row * width + column;
              return el(
                "td",
                {},
                el(
                  "button",
                  {
                    type: "button",
                    "data-key": `code ${index}`,
                    "aria-pressed": index === position ? "true" : "false",
                    "aria-label": `Row ${row + 1}, column ${column + 1}: entry ${latent.codes[index]}`,
                    on: {
                      click: () => {
                        position = index;
                        show();
                      },
                    },
                  },
                  String(latent.codes[index]),
                ),
              );
            }),
          ),
        ),
      ),
    );
    buttons.forEach((button, code) =>
      button.setAttribute("aria-pressed", code === latent.codes[position] ? "true" : "false"),
    );
  };
  return {
    map: [
      el("h3", {}, `Codes, ${height} × ${width} positions: choose one, then an entry`),
      el("div", { class: "scroll" }, positions),
    ],
    units: null,
    show,
    below: [
      el(
        "h3",
        {},
        `Codebook, ${bundle.codebook.codes} entries${bundle.decoder ? ", decoded with one at every position" : ""}`,
      ),
      entries,
    ],
  };
}

function entryPicture(bundle, code) {
  if (!bundle.decoder) return null;
  const entry = { z: null, codes: [] };
  setLatents(
    bundle,
    entry,
    Array.from({ length: product(bundle.codebook.grid) }, () => code),
  );
  const { canvas, paint } = imageCanvas(bundle.image_shape, "");
  paint(decodeHere(bundle, entry.z, 0));
  return canvas;
}

// The images that can be chosen. Dragging one onto another, or "Interpolate" and a second image, decodes the line
// between them.
function imageStrip(bundle, views) {
  const count = bundle.count("pixels");
  if (!count) return null;
  let from = -1;
  let waits = false;
  const toggle = el(
    "button",
    { type: "button", "aria-pressed": "false", on: { click: () => setWaiting(!waits) } },
    "Interpolate",
  );
  const hint = el("span", { class: "quiet", role: "status" });
  function setWaiting(on) {
    waits = on;
    toggle.setAttribute("aria-pressed", on ? "true" : "false");
    hint.textContent = on
      ? "From the point shown: choose the image to end at."
      : `Choose one of ${count} images${bundle.codebook ? "" : "; drag one onto another to interpolate"}.`;
  }
  const choose = (index) => {
    if (waits) {
      views.forEach((view) => view.interpolate(view.image(), index));
      setWaiting(false);
      return;
    }
    views.forEach((view) => view.setImage(index));
  };
  const buttons = Array.from({ length: count }, (_, index) => {
    const { canvas, paint } = imageCanvas(bundle.image_shape, "");
    paint(pixelsOf(bundle, index));
    return el(
      "button",
      {
        type: "button",
        class: "thumb",
        "data-image": index,
        "aria-label": nameOfImage(bundle, index),
        on: {
          click: () => choose(index),
          pointerdown: (event) => {
            if (event.pointerType === "mouse") from = index;
          },
          pointerup: () => {
            if (!bundle.codebook && from >= 0 && from !== index) views.forEach((view) => view.interpolate(from, index));
            from = -1;
          },
          dragstart: (event) => event.preventDefault(),
        },
      },
      canvas,
    );
  });
  const mark = () =>
    buttons.forEach((button, index) =>
      button.setAttribute("aria-pressed", views.some((view) => view.image() === index) ? "true" : "false"),
    );
  setWaiting(false);
  const element = el(
    "section",
    { class: "panel" },
    el("div", { class: "controls" }, el("h2", {}, "Images"), bundle.codebook ? null : toggle, hint),
    el("div", { class: "thumbs", tabindex: "0", role: "region", "aria-label": "Images" }, buttons),
  );
  return { element, mark };
}

// From an image, or from the latents shown if it is -1.
function interpolate(bundle, latent, decode, figure, from, to) {
  if (bundle.codebook) return;
  const start = from < 0 ? Float32Array.from(latent.z) : bundle.row("image_codes", from);
  const end = bundle.row("image_codes", to);
  const ends = `${from < 0 ? describe(bundle, { z: start, image: -1 }) : nameOfImage(bundle, from)} to ${nameOfImage(bundle, to).replace("I", "i")}`;
  const canvases = Array.from({ length: INTERPOLATION_STEPS }, (_, step) =>
    imageCanvas(
      bundle.image_shape,
      `${Math.round((100 * step) / (INTERPOLATION_STEPS - 1))} % from ${ends.replace("Image", "image")}`,
    ),
  );
  refill(
    figure,
    el(
      "div",
      { class: "interpolation" },
      canvases.map((item) => item.canvas),
    ),
    el("figcaption", {}, `${ends}, on the line between the two`),
  );
  const label = from >= 0 && bundle.classes && bundle.arrays.labels ? bundle.arrays.labels[from] : latent.label;
  const decodeStep = (step) => {
    if (step >= INTERPOLATION_STEPS) return;
    const share = step / (INTERPOLATION_STEPS - 1);
    decode(
      start.map((value, index) => value + share * (end[index] - value)),
      label,
      (values) => {
        canvases[step].paint(values);
        decodeStep(step + 1);
      },
    );
  };
  decodeStep(0);
}

// A canvas with a pixel for each of the image's; grey, or its first three channels.
function imageCanvas([channels, height, width], label) {
  const canvas = el("canvas", {
    class: "image",
    width,
    height,
    ...(label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" }),
  });
  const context = canvas.getContext("2d", { willReadFrequently: true }); // small, and written pixel by pixel
  const pixels = context.createImageData(width, height);
  const paint = (values) => {
    const size = height * width;
    for (let index = 0; index < size; index++) {
      for (let part = 0; part < 3; part++)
        pixels.data[4 * index + part] = 255 * values[(channels < 3 ? 0 : part) * size + index];
      pixels.data[4 * index + 3] = 255;
    }
    context.putImageData(pixels, 0, 0);
  };
  return { canvas, paint };
}

const SAVED_PIXELS = 512;
function savePicture(items) {
  const { width, height } = items[0].canvas;
  const scale = Math.max(1, Math.floor(SAVED_PIXELS / Math.max(width, height)));
  const joined = el("canvas", { width: items.length * width * scale, height: height * scale });
  const context = joined.getContext("2d");
  context.imageSmoothingEnabled = false;
  items.forEach((item, index) =>
    context.drawImage(item.canvas, index * width * scale, 0, width * scale, height * scale),
  );
  joined.toBlob((blob) => download(blob, "latent.png"));
}
