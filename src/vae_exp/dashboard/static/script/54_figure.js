// A panel as files: an SVG image with axes, units and legend on white, and its points as CSV.

const PAPER = { width: 760, left: 74, right: 20, top: 40, plot: 380, bottom: 52, row: 20 };

// One, two or five times a power of ten, at least as large as a number.
function roundStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= least);
}

// The lower or the upper edge (-1, 1) of the band of a line.
const edgeOf = ({ y, sd }, sign) => y.map((value, index) => value + sign * (sd[index] ?? 0));

// Round numbers in a range; of what is counted, whole ones.
function ticksIn(low, high, log, isCounted) {
  if (log) {
    const powers = [];
    const factors = high - low < 2 ? [1, 2, 5] : [1];
    for (let power = Math.floor(low); power <= high; power += 1)
      powers.push(...factors.map((factor) => power + Math.log10(factor)));
    const skip = Math.ceil(powers.length / 10);
    const inside = powers.filter((value, index) => value >= low && value <= high && index % skip === 0);
    if (inside.length > 1) return inside.map((value) => [value, 10 ** value]);
    return ticksIn(10 ** low, 10 ** high, false, isCounted)
      .filter(([value]) => value > 0)
      .map(([value]) => [Math.log10(value), value]);
  }
  const step = Math.max(isCounted ? 1 : 0, roundStep((high - low) / 7));
  const first = Math.ceil(low / step - 1e-9);
  return [...Array(Math.floor(high / step + 1e-9) - first + 1).keys()]
    .map((index) => (first + index) * step)
    .map((value) => [value, value]);
}

// From values to pixels; the range is that of the axis, in powers of ten if it is logarithmic.
function scaleOfAxis(values, log, range, start, end, { categories = null, isCounted = false } = {}) {
  const usable = values.filter((value) => Number.isFinite(value) && (!log || value > 0));
  const warp = log ? Math.log10 : (value) => value;
  const ends = usable
    .reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity])
    .map(warp);
  let [low, high] = range ?? (usable.length ? ends : [0, 1]);
  if (low === high) [low, high] = [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  const room = range ? 0 : 0.02 * (high - low);
  [low, high] = [low - room, high + room];
  const at = (value) => start + ((value - low) / (high - low)) * (end - start);
  if (categories) return { of: at, ticks: categories.map((text, index) => [at(index), cut(text, 20)]) };
  return {
    of: (value) => at(warp(value)),
    ticks: ticksIn(low, high, log, isCounted).map(([position, value]) => [
      at(position),
      shown(Number(value.toPrecision(6))),
    ]),
  };
}

const attributesOf = (style, root) => ({
  fill: "none",
  stroke: cssOf(style.colour, root),
  "stroke-width": 1.8,
  "stroke-dasharray": dashOf(style.dash, "") || null,
});

// Paths of the points that follow each other without a gap.
function pathsOf({ x, y }, across, up, log) {
  let gap = true;
  return x
    .map((value, index) => {
      const isMissing = value === null || y[index] === null || (log.x && value <= 0) || (log.y && y[index] <= 0);
      const command = isMissing ? "" : `${gap ? "M" : "L"}${across.of(value).toFixed(1)},${up.of(y[index]).toFixed(1)}`;
      gap = isMissing;
      return command;
    })
    .join("");
}

function drawnLine(line, across, up, log, root) {
  const shape = attributesOf(line.style, root);
  const { x, y, sd } = line;
  const edges = sd && [-1, 1].map((sign) => edgeOf(line, sign));
  const isPoint = x.length === 1;
  const band =
    edges && !isPoint && (!log.y || edges[0].every((value) => value > 0))
      ? svg("polygon", {
          fill: shape.stroke,
          "fill-opacity": BAND,
          points: [
            ...x.map((value, index) => [value, edges[0][index]]),
            ...x.map((value, index) => [value, edges[1][index]]).reverse(),
          ]
            .map(([a, b]) => `${across.of(a).toFixed(1)},${up.of(b).toFixed(1)}`)
            .join(" "),
        })
      : null;
  const faint =
    line.raw &&
    svg("path", {
      ...shape,
      "stroke-width": 1,
      "stroke-opacity": RAW,
      "stroke-dasharray": null,
      d: pathsOf({ x, y: line.raw }, across, up, log),
    });
  if (!isPoint) return [band, faint, svg("path", { ...shape, d: pathsOf(line, across, up, log) })];
  const bar = edges
    ? svg("line", {
        x1: across.of(x[0]),
        x2: across.of(x[0]),
        y1: up.of(edges[0][0]),
        y2: up.of(edges[1][0]),
        stroke: shape.stroke,
      })
    : null;
  return [bar, svg("path", { d: symbolPath(line.style.dash, across.of(x[0]), up.of(y[0])), fill: shape.stroke })];
}

const symbolPath = (dash, x, y) =>
  [
    `M${x - 4},${y}a4,4,0,1,1,8,0a4,4,0,1,1,-8,0`,
    `M${x - 4},${y - 4}h8v8h-8Z`,
    `M${x},${y - 5}l5,5l-5,5l-5,-5Z`,
    `M${x},${y - 5}l5,9h-10Z`,
  ][dash];

const textWidth = (text) => 6.6 * text.length; // at 12 px, about

// `categories` are the texts of an x-axis whose values are their numbers.
function figureSvg({ title, xTitle, yTitle, lines, log, range, categories, isCounted }, root) {
  const { width, left, right, top, plot, bottom, row } = PAPER;
  const text = (content, attributes) => svg("text", { "font-size": 12, fill: "#1a1d21", ...attributes }, content);
  const across = scaleOfAxis(
    lines.flatMap(({ x }) => x),
    log.x,
    range.x,
    left,
    width - right,
    { categories, isCounted },
  );
  const spread = lines.flatMap((line) =>
    line.sd ? [-1, 1].flatMap((sign) => edgeOf(line, sign)) : [...line.y, ...(line.raw ?? [])],
  );
  const up = scaleOfAxis(spread, log.y, range.y, top + plot, top);
  const entries = [...new Map(lines.map((line) => [line.legend, line]))];
  const column = Math.min(width - left, Math.max(0, ...entries.map(([label]) => textWidth(label))) + 60);
  const columns = Math.max(1, Math.floor((width - 20) / column));
  const height = top + plot + bottom + row * Math.ceil(entries.length / columns) + 10;
  const legend = entries.map(
    (
      [
        label,
        {
          style,
          x: { length },
        },
      ],
      index,
    ) => {
      const [x, y] = [20 + (index % columns) * column, top + plot + bottom + row * Math.floor(index / columns) + 8];
      const sample =
        length === 1
          ? svg("path", { d: symbolPath(style.dash, x + 30, y), fill: cssOf(style.colour, root) })
          : svg("line", { ...attributesOf(style, root), "stroke-width": 2.4, x1: x, x2: x + 36, y1: y, y2: y });
      return [sample, text(label, { x: x + 44, y: y + 4 })];
    },
  );
  const frame = [
    across.ticks.map(([x, label]) => [
      svg("line", { x1: x, x2: x, y1: top, y2: top + plot, stroke: "#d9dce1" }),
      text(label, { x, y: top + plot + 17, "text-anchor": "middle" }),
    ]),
    up.ticks.map(([y, label]) => [
      svg("line", { x1: left, x2: width - right, y1: y, y2: y, stroke: "#d9dce1" }),
      text(label, { x: left - 6, y: y + 4, "text-anchor": "end" }),
    ]),
  ];
  return svg(
    "svg",
    { width, height, viewBox: `0 0 ${width} ${height}`, "font-family": "system-ui, sans-serif" },
    svg("title", {}, title),
    svg("rect", { width, height, fill: "#ffffff" }),
    text(title, { x: left, y: 24, "font-size": 15, "font-weight": 600 }),
    frame,
    svg("clipPath", { id: "plot" }, svg("rect", { x: left, y: top, width: width - left - right, height: plot })),
    svg("g", { "clip-path": "url(#plot)" }, bandsFirst(lines.map((line) => drawnLine(line, across, up, log, root)))),
    svg("path", { d: `M${left},${top}V${top + plot}H${width - right}`, fill: "none", stroke: "#7d848d" }),
    text(xTitle, { x: (left + width - right) / 2, y: top + plot + 38, "text-anchor": "middle" }),
    text(yTitle, { transform: `translate(18,${top + plot / 2}) rotate(-90)`, "text-anchor": "middle" }),
    legend,
  );
}

const fileName = (title, ending) => `${title.replace(/[^\w.=-]+/g, "-").replace(/^-+|-+$/g, "") || "panel"}.${ending}`;

// In the colours of the light theme.
function saveFigure(figure) {
  const paper = el("div", { class: "paper", hidden: true });
  document.body.append(paper);
  const text = new XMLSerializer().serializeToString(
    figure.drawing ? copyOnPaper(figure.drawing, paper) : figureSvg(figure, paper),
  );
  paper.remove();
  download(new Blob([text], { type: "image/svg+xml" }), fileName(figure.title, "svg"));
}

// A drawing of the page with what the style sheet says of it.
function copyOnPaper(drawing, paper) {
  const copy = drawing.cloneNode(true);
  paper.append(copy);
  copy.querySelectorAll(".handle, .area").forEach((item) => item.remove());
  for (const item of copy.querySelectorAll("*")) {
    if (item.dataset.at) item.style.setProperty(item.dataset.of, cssOf({ at: Number(item.dataset.at) }, paper));
    const style = getComputedStyle(item);
    for (const name of [
      "fill",
      "fill-opacity",
      "stroke",
      "stroke-width",
      "stroke-linejoin",
      "opacity",
      "font-size",
      "paint-order",
    ])
      item.setAttribute(name, style.getPropertyValue(name));
  }
  copy.prepend(
    svg("rect", { width: copy.getAttribute("width"), height: copy.getAttribute("height"), fill: "#ffffff" }),
  );
  copy.setAttribute("font-family", "system-ui, sans-serif");
  return copy;
}

function savePoints({ title, xTitle, yTitle, lines, spread = "sd", categories = null, table = null }) {
  if (table) {
    saveCsv(table, fileName(title, "csv"));
    return;
  }
  const hasMeans = lines.some(({ sd }) => sd);
  const rows = lines.flatMap(({ label, x, y, sd, n }) =>
    x.map((value, index) => [
      label,
      categories ? categories[value] : value,
      y[index],
      ...(hasMeans ? [sd?.[index], n?.[index] ?? 1] : []),
    ]),
  );
  saveCsv(
    [["line", xTitle, yTitle, ...(hasMeans ? [spread, "n"] : [])], ...rows.map((cells) => cells.map(textOf))],
    fileName(title, "csv"),
  );
}
