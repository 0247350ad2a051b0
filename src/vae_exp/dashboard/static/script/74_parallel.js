// Parallel coordinates: a path for each run through an axis for each key, the metric last and as the colour. Ranges on
// axes mark runs; they are shares of an axis from 0 to 1 in `state.brush`.

const MOST_AXES = 9;
const MOST_PATHS = 500;
const LEAST_AXIS_GAP = 96; // pixels
const PARALLEL = { height: 330, top: 44, bottom: 24, left: 68, right: 78 };
const STEPS_OF_KEYS = { ArrowUp: 0.02, ArrowDown: -0.02, PageUp: 0.1, PageDown: -0.1, Home: -1, End: 1 };

const brushes = () =>
  new Map(
    listOf(state.brush)
      .map((text) => text.split(FIELD))
      .map(([key, range]) => [key, rangeFrom(range ?? "")])
      .filter(([, range]) => range),
  );

function saveBrush(key, range) {
  const now = brushes();
  now.delete(key);
  if (range && (range[0] > 0 || range[1] < 1)) now.set(key, range);
  setState({
    brush: asList(
      [...now].map(([name, ends]) => [name, ends.map((end) => Number(end.toFixed(3))).join(" ")].join(FIELD)),
    ),
  });
}

function drawParallel(box, list, keys, metric) {
  const all = finite(list, metric);
  const measured = all.slice(0, MOST_PATHS);
  const together = keysTogether(
    measured,
    keys.filter((key) => valuesOf(measured, key).length > 1),
  ).slice(0, MOST_AXES - 1);
  const axes = [...together.map(([key]) => key), metric];
  const names = axes.map((key) => (key === metric ? labelOfMetric(list, key) : key));
  if (measured.length < 2 || axes.length < 2) {
    refill(box, el("p", { class: "quiet" }, "Two runs that differ are needed."));
    return null;
  }
  const scales = new Map(axes.map((key) => [key, scaleOf(measured, key, key === metric)]));
  const { left, height } = PARALLEL;
  const right = Math.max(PARALLEL.right, 22 + Math.max(...scales.get(metric).ticks.map(([text]) => textWidth(text))));
  const gap = Math.max(LEAST_AXIS_GAP, (box.clientWidth - left - right) / (axes.length - 1));
  const width = left + right + gap * (axes.length - 1);
  const x = (index) => left + index * gap;
  const paths = measured.map((run) =>
    runPath(
      run,
      metric,
      axes.map((key, index) => `${x(index).toFixed(1)},${yOf(scales.get(key).place(run)).toFixed(1)}`),
      scales.get(metric).place(run),
    ),
  );
  const message = el("p", { class: "quiet", role: "status" });
  const buttons = el("span", { class: "controls" });
  const limit = all.length > measured.length ? `${measured.length} of ${all.length} runs are drawn. ` : "";
  const show = (ranges) => {
    markPaths(measured, paths, scales, ranges, message, buttons);
    message.prepend(limit);
  };
  const drawing = labelledSvg(
    width,
    height,
    "group",
    `Parallel coordinates of ${names.join(", ")}`,
    svg("g", {}, paths),
    axes.map((key, index) =>
      drawAxis(key, x(index), scales.get(key), {
        isLast: key === metric,
        title: together[index]?.join(", "),
        gap,
        right,
        list,
        show,
      }),
    ),
  );
  refill(box, el("div", { class: "controls" }, message, buttons), el("div", { class: "scroll plain" }, drawing));
  show(brushes());
  const table = [
    ["run", ...names],
    ...measured.map((run) => [run.key, ...axes.map((key) => textOf(valueOf(run, key)))]),
  ];
  return { title: `parallel coordinates of ${names.at(-1)}`, drawing, table };
}

const yOf = (place) => PARALLEL.height - PARALLEL.bottom - place * (PARALLEL.height - PARALLEL.bottom - PARALLEL.top);

function runPath(run, metric, points, at) {
  const text = `${run.label}: ${shown(number(run, metric), metric)}`;
  const open = () => setState({ page: "run", run: run.key });
  return svg(
    "path",
    {
      class: "run",
      style: `stroke: ${cssOf({ at })}`,
      "data-at": at,
      "data-of": "stroke",
      d: `M${points.join("L")}`,
      tabindex: "0",
      role: "link",
      "data-key": run.key,
      "aria-label": text,
      on: {
        click: open,
        keydown: (event) => {
          if (event.key === "Enter") open();
        },
      },
    },
    svg("title", {}, text),
  );
}

// Runs outside of a range become faint.
function markPaths(list, paths, scales, ranges, message, buttons) {
  const some = [...ranges].filter(([key]) => scales.has(key));
  const inside = list.filter((run) =>
    some.every(([key, [low, high]]) => {
      const place = scales.get(key).place(run);
      return place >= low - 1e-6 && place <= high + 1e-6;
    }),
  );
  const marked = new Set(inside);
  list.forEach((run, index) => {
    paths[index].classList.toggle("out", !marked.has(run));
    paths[index].setAttribute("tabindex", marked.has(run) ? "0" : "-1");
  });
  message.textContent = some.length
    ? `${inside.length} of ${list.length} runs are inside of the ranges.`
    : "Drag along an axis, or move its two ends by the arrow keys, to mark runs.";
  const button = (text, patch) =>
    el("button", { type: "button", "data-key": text, on: { click: () => setState(patch()) } }, text);
  refill(
    buttons,
    some.length
      ? [
          inside.length
            ? button("Select these runs", () => ({ selected: asList(inside.map((run) => run.key)), brush: "" }))
            : null,
          button("Clear the ranges", () => ({ brush: "" })),
        ]
      : [],
  );
}

function drawAxis(key, x, scale, { isLast, title, gap, right, list, show }) {
  const range = brushes().get(key) ?? [0, 1];
  const name = isLast ? labelOfMetric(list, key) : nameOf(key, [key]);
  const [top, bottom] = [yOf(1), yOf(0)];
  const bar = svg("rect", {
    class: "brush",
    x: x - 9,
    width: 18,
    y: yOf(range[1]),
    height: yOf(range[0]) - yOf(range[1]),
    visibility: range[0] > 0 || range[1] < 1 ? null : "hidden",
  });
  const area = svg("rect", { class: "area", x: x - 16, width: 32, y: top - 8, height: bottom - top + 16 });
  brushByPointer(area, bar, key, show);
  const side = isLast ? { x: x + 14, "text-anchor": "start" } : { x: x - 8, "text-anchor": "end" };
  return svg(
    "g",
    {},
    isLast ? rampBar(x, top, bottom) : svg("line", { class: "axis", x1: x, x2: x, y1: top, y2: bottom }),
    bar,
    svg(
      "text",
      { x: isLast ? x + right - 4 : x, y: 14, "text-anchor": isLast ? "end" : "middle" },
      svg("title", {}, title ?? name),
      cut(name, Math.floor(gap / 7)),
    ),
    scale.ticks.map(([text, place]) => svg("text", { class: "quiet", ...side, y: yOf(place) + 4 }, text)),
    area,
    [0, 1].map((end) => brushHandle(key, name, x, range, end, scale)),
  );
}

const rampBar = (x, top, bottom) =>
  [...Array(24).keys()].map((index) =>
    svg("rect", {
      x: x,
      width: 8,
      y: bottom - ((index + 1) * (bottom - top)) / 24,
      height: (bottom - top) / 24 + 0.5,
      style: `fill: ${cssOf({ at: index / 23 })}`,
      "data-at": index / 23,
      "data-of": "fill",
    }),
  );

function brushByPointer(area, bar, key, show) {
  let from = null;
  const placeOf = (event) => {
    const box = area.getBoundingClientRect();
    return Math.min(1, Math.max(0, 1 - (event.clientY - box.top - 8) / (box.height - 16)));
  };
  const rangeTo = (event) => [Math.min(from, placeOf(event)), Math.max(from, placeOf(event))];
  area.addEventListener("pointerdown", (event) => {
    if (event.button === 0) {
      from = placeOf(event);
      area.setPointerCapture(event.pointerId);
    }
  });
  area.addEventListener("pointermove", (event) => {
    if (from === null) return;
    const range = rangeTo(event);
    bar.removeAttribute("visibility");
    bar.setAttribute("y", yOf(range[1]));
    bar.setAttribute("height", yOf(range[0]) - yOf(range[1]));
    show(new Map([...brushes(), [key, range]]));
  });
  area.addEventListener("pointerup", (event) => {
    if (from === null) return;
    const range = rangeTo(event);
    from = null;
    saveBrush(key, range[1] - range[0] < 0.015 ? null : range); // a click ends the range
  });
  area.addEventListener("pointercancel", () => {
    from = null;
    show(brushes());
  });
}

// The lower or the upper end of a range, moved by keys; Escape ends the range.
function brushHandle(key, name, x, range, end, scale) {
  const move = (event) => {
    if (event.key === "Escape") return saveBrush(key, null);
    const step = STEPS_OF_KEYS[event.key];
    if (step === undefined) return undefined;
    event.preventDefault();
    const ends = [...range];
    ends[end] = end
      ? Math.min(1, Math.max(range[0], range[1] + step))
      : Math.max(0, Math.min(range[1], range[0] + step));
    return saveBrush(key, ends);
  };
  const y = yOf(range[end]);
  return svg("path", {
    class: "handle",
    d: end ? `M${x - 6},${y - 8}h12l-6,7Z` : `M${x - 6},${y + 8}h12l-6,-7Z`,
    tabindex: "0",
    role: "slider",
    "data-key": `brush ${key} ${end}`,
    "aria-orientation": "vertical",
    "aria-label": `${end ? "Greatest" : "Least"} ${name}`,
    "aria-valuemin": 0,
    "aria-valuemax": 100,
    "aria-valuenow": Math.round(100 * range[end]),
    "aria-valuetext": scale.textAt(range[end]),
    on: { keydown: move },
  });
}

// Where the value of a run stands on an axis, from 0 to 1.
function scaleOf(list, key, isMetric) {
  const read = isMetric ? (run) => number(run, key) : (run) => run.config[key];
  if (isMetric || isNumeric(list, key)) {
    const numbers = list.map(read);
    const few = [...new Set(numbers)].sort((a, b) => a - b);
    const [low, high] = [few[0], few.at(-1)];
    const log = !isMetric && isWide(low, high);
    const [warp, unwarp] = log ? [Math.log, Math.exp] : [(value) => value, (value) => value];
    const place = (value) => (high > low ? (warp(value) - warp(low)) / (warp(high) - warp(low)) : 0.5);
    const isFew = few.length <= 6 && !isMetric;
    const ticks = isFew ? few : isMetric ? [low, (low + high) / 2, high] : [low, high];
    return {
      place: (run) => place(read(run)),
      ticks: ticks.map((value) => [
        shown(isFew ? value : Number(value.toPrecision(isMetric ? 6 : 3)), key),
        place(value),
      ]),
      textAt: (share) => shown(Number(unwarp(warp(low) + share * (warp(high) - warp(low))).toPrecision(4)), key),
    };
  }
  const values = valuesOf(list, key);
  const place = (value) => values.indexOf(value) / Math.max(1, values.length - 1);
  const skip = Math.ceil(values.length / 14);
  return {
    place: (run) => place(textBy(run, key)),
    ticks: values
      .filter((_, index) => index % skip === 0)
      .map((value) => [cut(shown(value, key) || "–", 14), place(value)]),
    textAt: (share) => shown(values[Math.round(share * (values.length - 1))], key) || "–",
  };
}
