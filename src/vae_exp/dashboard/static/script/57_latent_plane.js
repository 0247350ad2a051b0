// A plane through the latent space as a canvas: codes of images, their density, and the point that is decoded.

const PLANE_SIZE = 560; // pixels of the canvas, whatever its size on the page
const DENSITY_CELLS = 56;
const LEAST_REACH = 3; // standard deviations of a standard normal prior
const LABEL_COLOURS = [
  "#3b78c2",
  "#e0732c",
  "#3f9a45",
  "#c63a3a",
  "#8a62b8",
  "#8b5a4c",
  "#d873b4",
  "#7d7d7d",
  "#b0a727",
  "#2fa9b8",
];

// A plane is an origin and two directions of length one: of two units, or the principal directions of the codes; without
// codes of the first two units.
function planeOf(bundle, name) {
  const size = bundle.latent_dim;
  const named = name.split(",").map(Number);
  const areUnits = named[0] < size && named[1] < size && named[0] !== named[1];
  if (areUnits || !bundle.count("codes")) {
    const [first, second] = areUnits ? named : [0, 1];
    const axis = (unit) => Float32Array.from({ length: size }, (_, index) => (index === unit ? 1 : 0));
    return {
      origin: new Float32Array(size),
      axes: [axis(first), axis(second)],
      names: [`z${first + 1}`, `z${second + 1}`],
      units: [first, second],
    };
  }
  return {
    origin: bundle.arrays.centre,
    axes: [bundle.row("directions", 0), bundle.row("directions", 1)],
    names: ["first principal direction", "second principal direction"],
    units: [],
  };
}

const along = ({ origin, axes }, latents) =>
  axes.map((axis) => axis.reduce((sum, part, index) => sum + part * (latents[index] - origin[index]), 0));

// The latents with these two coordinates, otherwise unchanged.
function moved(plane, latents, coordinates) {
  const now = along(plane, latents);
  const steps = coordinates.map((value, index) => value - now[index]);
  return latents.map((value, index) => value + steps[0] * plane.axes[0][index] + steps[1] * plane.axes[1][index]);
}

function latentPlane(bundle, plane, { onPreview, onChoose }) {
  const canvas = el("canvas", {
    class: "plane",
    width: PLANE_SIZE,
    height: PLANE_SIZE,
    tabindex: "0",
    role: "application",
    "aria-label": `Latent plane of ${plane.names.join(" and ")}: the arrow keys move the point that is decoded, with Shift further`,
  });
  const points = Array.from({ length: bundle.count("codes") }, (_, index) => along(plane, bundle.row("codes", index)));
  const sizes = points
    .flat()
    .map(Math.abs)
    .sort((a, b) => a - b);
  const reach = 1.08 * Math.max(LEAST_REACH, sizes[Math.floor(0.995 * sizes.length)] ?? 0); // a few codes may lie outside
  const toPixel = ([x, y]) => [((x / reach + 1) * PLANE_SIZE) / 2, ((1 - y / reach) * PLANE_SIZE) / 2];
  const background = drawCodes(bundle, points, toPixel);
  let chosen = [0, 0];

  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const within = (value) => Math.max(-reach, Math.min(reach, value));
    return [
      within(((2 * (event.clientX - box.left)) / box.width - 1) * reach),
      within((1 - (2 * (event.clientY - box.top)) / box.height) * reach),
    ];
  };
  const draw = (point) => {
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, PLANE_SIZE, PLANE_SIZE);
    context.drawImage(background, 0, 0);
    const [x, y] = toPixel(point);
    for (const [style, width] of [
      [colour("ground"), 6],
      [colour("ink"), 2.5],
    ]) {
      context.beginPath();
      context.arc(x, y, 9, 0, 2 * Math.PI);
      for (const [dx, dy] of [
        [1, 0],
        [-1, 0],
        [0, 1],
        [0, -1],
      ]) {
        context.moveTo(x + 9 * dx, y + 9 * dy);
        context.lineTo(x + 17 * dx, y + 17 * dy);
      }
      Object.assign(context, { strokeStyle: style, lineWidth: width });
      context.stroke();
    }
  };
  const choose = (point) => {
    chosen = point;
    draw(point);
    onChoose(point);
  };
  let pressed = false;
  fill(
    canvas,
    {
      on: {
        pointerdown: (event) => {
          pressed = true;
          canvas.setPointerCapture(event.pointerId);
          choose(at(event));
        },
        pointermove: (event) => {
          if (pressed) choose(at(event));
          else if (event.pointerType === "mouse") {
            const point = at(event);
            draw(point);
            onPreview(point);
          }
        },
        pointerup: () => {
          pressed = false;
        },
        pointercancel: () => {
          pressed = false;
        },
        pointerleave: () => {
          if (!pressed) {
            draw(chosen);
            onPreview(null);
          }
        },
        keydown: (event) => {
          const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
          if (!step) return;
          event.preventDefault();
          choose(
            chosen.map((value, index) =>
              Math.max(-reach, Math.min(reach, value + step[index] * (event.shiftKey ? 0.5 : 0.1))),
            ),
          );
        },
      },
    },
    [],
  );
  const [across, up] = plane.names;
  const figure = el(
    "figure",
    {},
    canvas,
    el("figcaption", {}, `Across: ${across}; up: ${up}. Point to decode; click, drag or use the arrow keys to choose.`),
  );
  return {
    figure,
    show: (latents) => {
      chosen = along(plane, latents);
      draw(chosen);
    },
  };
}

function drawCodes(bundle, points, toPixel) {
  const layer = el("canvas", { width: PLANE_SIZE, height: PLANE_SIZE });
  const context = layer.getContext("2d");
  context.drawImage(drawDensity(points.map(toPixel)), 0, 0, PLANE_SIZE, PLANE_SIZE);
  Object.assign(context, { strokeStyle: colour("line"), lineWidth: 1 });
  for (const [from, to] of [
    [
      [-99, 0],
      [99, 0],
    ],
    [
      [0, -99],
      [0, 99],
    ],
  ]) {
    context.beginPath();
    context.moveTo(...toPixel(from));
    context.lineTo(...toPixel(to));
    context.stroke();
  }
  drawTicks(context, toPixel);
  context.globalAlpha = points.length > 1000 ? 0.6 : 0.85;
  points.forEach((point, index) => {
    context.fillStyle = bundle.arrays.labels
      ? (LABEL_COLOURS[bundle.arrays.labels[index] % 10] ?? colour("accent"))
      : colour("accent");
    context.beginPath();
    context.arc(...toPixel(point), points.length > 1000 ? 2.4 : 3.4, 0, 2 * Math.PI);
    context.fill();
  });
  return layer;
}

// The shade grows with the square root, so that thin regions are seen in both themes.
function drawDensity(pixels) {
  const layer = el("canvas", { width: DENSITY_CELLS, height: DENSITY_CELLS });
  const context = layer.getContext("2d");
  const density = densityOf(pixels, PLANE_SIZE / DENSITY_CELLS);
  const most = Math.max(...density);
  context.fillStyle = colour("ink");
  density.forEach((value, index) => {
    context.globalAlpha = 0.4 * Math.sqrt(value / most) || 0;
    context.fillRect(index % DENSITY_CELLS, Math.floor(index / DENSITY_CELLS), 1, 1);
  });
  return layer;
}

function drawTicks(context, toPixel) {
  Object.assign(context, { fillStyle: colour("quiet"), font: "15px system-ui, sans-serif", textBaseline: "top" });
  const reach = PLANE_SIZE / 2 / (toPixel([1, 0])[0] - toPixel([0, 0])[0]);
  const step = [1, 2, 5, 10, 20, 50, 100].find((size) => reach / size < 5) ?? reach / 4;
  for (let value = -Math.floor(reach / step) * step; value <= reach; value += step) {
    if (value === 0 || Math.abs(value) > 0.95 * reach) continue; // at the edge a label would be cut
    context.fillText(textOfTick(value), toPixel([value, 0])[0] + 3, PLANE_SIZE / 2 + 3);
    context.fillText(textOfTick(value), PLANE_SIZE / 2 + 4, toPixel([0, value])[1] - 7);
  }
}

const textOfTick = (value) => `${value < 0 ? "−" : ""}${Math.abs(value)}`;

// Counts in cells, blurred twice with the weights 1, 2, 1 along both axes.
function densityOf(pixels, cell) {
  let density = new Float32Array(DENSITY_CELLS ** 2);
  for (const [x, y] of pixels) {
    const [column, row] = [Math.floor(x / cell), Math.floor(y / cell)];
    if (column >= 0 && column < DENSITY_CELLS && row >= 0 && row < DENSITY_CELLS)
      density[row * DENSITY_CELLS + column] += 1;
  }
  for (const step of [1, DENSITY_CELLS, 1, DENSITY_CELLS])
    density = density.map((value, index) => 2 * value + (density[index - step] ?? 0) + (density[index + step] ?? 0));
  return density;
}
