// Images as canvases, the strip of those that can be chosen, and the line between two.

const INTERPOLATION_STEPS = 9;

const pixelsOf = (bundle, index) => Float32Array.from(bundle.row("pixels", index), (value) => value / 255);

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
