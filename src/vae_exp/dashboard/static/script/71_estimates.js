// What the figures of a sweep share: groups of runs as points with error bars, and axes.

const isNumeric = (list, key) => list.every((run) => typeof run.config[key] === "number");

// Runs with the same setting, and the same seed where seeds are shown.
const settingsAt = (list, key) => groupsBy(list, (run) => `${settingOf(run)}${isSeed(key) ? textBy(run, key) : ""}`);
const errorBars = (estimates) => ({
  type: "data",
  array: estimates.map(({ error }) => (Number.isFinite(error) ? error : 0)),
  thickness: 1,
  width: 3,
  color: colour("line"),
});

// An estimate as a line of one point of a figure.
const pointOfEstimate = (x, { members, mean: y, error }, label, legend, style) => ({
  x: [x],
  y: [y],
  sd: [Number.isFinite(error) ? error : null],
  n: [members.length],
  label,
  legend,
  style,
});

// As the axes of `sweep plot`: logarithmic where values are far apart, a tick for each of a few.
const isWide = (low, high) => low > 0 && high / low >= 8;

function axisOf(values) {
  const [low, high] = [values[0], values.at(-1)];
  const log = isWide(low, high);
  const at = values.map((value) => (log ? Math.log10(value) : value));
  const isApart = at.every((item, index) => !index || item - at[index - 1] >= 0.04 * (at.at(-1) - at[0]));
  const few = values.length <= 8 && values.every((value) => String(value).length <= 8) && isApart;
  const ticks = few
    ? { tickvals: values, ticktext: values.map(String) }
    : log
      ? { dtick: high / low >= 100 ? 1 : "D2", exponentformat: "power" }
      : {};
  return { type: log ? "log" : "linear", ...ticks };
}
