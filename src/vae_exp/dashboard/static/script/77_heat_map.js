// The heat map of two keys.

const HEAT = { height: 304, top: 6, bottom: 40 };

// A cell for each pair of values, coloured as the paths of parallel coordinates.
function drawHeat(box, list, rows, cols, metric) {
  const measured = finite(list, metric).filter((run) => rows in run.config && cols in run.config);
  if (!rows || !cols || rows === cols || !measured.length) {
    refill(box);
    return null;
  }
  const [down, across] = [valuesOf(measured, rows), valuesOf(measured, cols)];
  const cells = groupsBy(measured, (run) => JSON.stringify([textBy(run, rows), textBy(run, cols)]))
    .map((members) => {
      const [row, col] = [textBy(members[0], rows), textBy(members[0], cols)];
      return { row, col, j: down.indexOf(row), i: across.indexOf(col), ...combined(members, metric) };
    })
    .filter((cell) => "mean" in cell)
    .sort((one, other) => one.j - other.j || one.i - other.i);
  const title = labelOfMetric(list, metric);
  const digits = decimalsOf(
    metric,
    cells.map((cell) => cell.mean),
  );
  const widthOf = (values) => Math.max(...values.map((value) => textWidth(cut(value, 14))));
  const left = 34 + widthOf(down);
  const ends = [Math.min, Math.max].map((end) => end(...cells.map((cell) => cell.mean)));
  const right = 26 + Math.max(...ends.map((value) => textWidth(fixed(value, digits))));
  const { height, top, bottom } = HEAT;
  const width = Math.max(box.clientWidth, left + right + 90);
  const [wide, high] = [(width - left - right) / across.length, (height - top - bottom) / down.length];
  const placeOf = (value) => (ends[1] > ends[0] ? (value - ends[0]) / (ends[1] - ends[0]) : 0.5);
  const [x, y] = [(index) => left + index * wide, (index) => height - bottom - (index + 1) * high];
  const hasTexts = cells.every((cell) => textWidth(fixed(cell.mean, digits)) + 14 < wide) && high > 24;
  const textIn = ({ i, j }, text) => [
    svg("rect", {
      class: "label",
      x: x(i) + (wide - textWidth(text)) / 2 - 4,
      y: y(j) + high / 2 - 9,
      width: textWidth(text) + 8,
      height: 18,
      rx: 3,
    }),
    svg("text", { x: x(i) + wide / 2, y: y(j) + high / 2 + 4, "text-anchor": "middle" }, text),
  ];
  const cellOf = (cell) =>
    svg(
      "g",
      {},
      svg("title", {}, `${rows} ${cell.row}, ${cols} ${cell.col}: ${withError(cell, digits)}`),
      svg("rect", {
        x: x(cell.i) + 1,
        y: y(cell.j) + 1,
        width: Math.max(1, wide - 2),
        height: Math.max(1, high - 2),
        style: `fill: ${cssOf({ at: placeOf(cell.mean) })}`,
        "data-at": placeOf(cell.mean),
        "data-of": "fill",
      }),
      hasTexts ? textIn(cell, fixed(cell.mean, digits)) : null,
    );
  const labels = (values, size, room, draw) =>
    values.map((value, index) => (index % Math.ceil(size / room) ? null : draw(cut(value, 14), index)));
  const drawing = labelledSvg(
    width,
    height,
    "group",
    `${title} over ${rows} and ${cols}`,
    cells.map(cellOf),
    labels(down, 14, high, (text, index) =>
      svg("text", { x: left - 5, y: y(index) + high / 2 + 4, "text-anchor": "end" }, text),
    ),
    labels(across, widthOf(across), wide, (text, index) =>
      svg("text", { x: x(index) + wide / 2, y: height - bottom + 15, "text-anchor": "middle" }, text),
    ),
    svg("text", { x: x(across.length / 2), y: height - 6, "text-anchor": "middle" }, cols),
    svg(
      "text",
      { transform: `translate(14,${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" },
      rows,
    ),
    rampBar(width - right + 8, top, height - bottom),
    [...new Set(ends)].map((value) =>
      svg(
        "text",
        { x: width - right + 20, y: height - bottom - placeOf(value) * (height - bottom - top - 10), class: "quiet" },
        fixed(value, digits),
      ),
    ),
  );
  refill(box, drawing);
  const table = [
    [rows, cols, withUnit(metric, title), "standard error"],
    ...cells.map((cell) => [
      cell.row,
      cell.col,
      textOf(cell.mean),
      Number.isFinite(cell.error) ? textOf(cell.error) : "",
    ]),
  ];
  return { title: `${title} over ${rows} and ${cols}`, drawing, table };
}
