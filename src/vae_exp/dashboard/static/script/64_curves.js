// Curves of metrics: fetched, against an axis, smoothed, and as means over runs.

const AXES = { epoch: "epoch", step: "step", time: "time (s)", images: "images seen" };
const OF_METRIC = "metric:"; // `metric:val/rate` is an axis too
const SEEN = /(^|\/)(images|samples)_seen$/;
const POINTS_OF_A_MEAN = 500;
const RUNS_OF_A_REQUEST = 50;

const metricOfAxis = () => (state.against.startsWith(OF_METRIC) ? state.against.slice(OF_METRIC.length) : "");
const isCounted = () => !metricOfAxis() && state.against !== "time";
const fetchedAxis = () => (["epoch", "time"].includes(state.against) ? state.against : "step");
const axisTitle = () => {
  const metric = metricOfAxis();
  return metric ? withUnit(metric) : AXES[state.against === "images" ? "images" : fetchedAxis()];
};
const withUnit = (metric, text = metric) => (units.get(metric) ? `${text} (${units.get(metric)})` : text);
const hasCurve = (list, metric) => list.some((run) => run.keys.includes(metric) || run.gpu.includes(metric));

// What W&B measures of GPUs.
const GPU_METRICS = {
  gpu: "utilisation (%)",
  memoryAllocatedBytes: "memory (GB)",
  memoryAllocated: "memory (%)",
  memory: "memory traffic (time, %)",
};
const GPU = /^gpu\.(\d+)\.(gpu|memory|memoryAllocated|memoryAllocatedBytes)$/;
const isOfGpu = (metric) => GPU.test(metric);
const inUnit = (metric, y) =>
  isOfGpu(metric) && metric.endsWith("Bytes") ? y.map((value) => value && value * 1e-9) : y;

function titleOfMetric(metric) {
  const [, index, name] = GPU.exec(metric) ?? [];
  return name ? `GPU ${index}: ${GPU_METRICS[name]}` : metric;
}

// Images of a step; null if the config does not have one such number.
function batchSizeOf(run) {
  const named = run.config["trainer.batch_size"] ?? run.config.batch_size;
  if (typeof named === "number") return named;
  const sizes = Object.keys(run.config).filter(
    (key) => key.endsWith(".batch_size") && typeof run.config[key] === "number",
  );
  return sizes.length === 1 ? run.config[sizes[0]] : null;
}

const loggedSeen = (run) => run.keys.find((key) => SEEN.test(key));
const lacksAxis = (run) =>
  (state.against === "images" && !loggedSeen(run) && batchSizeOf(run) === null) ||
  (metricOfAxis() !== "" && !run.keys.includes(metricOfAxis()));

// Fetch only what has changed, of some runs at a time: the server limits the curves of a request.
async function fetchCurves(list, metrics, cache) {
  const against = fetchedAxis();
  const needed = new Set(
    [...metrics, metricOfAxis(), ...(state.against === "images" ? list.map(loggedSeen) : [])].filter(Boolean),
  );
  const isStale = (run) =>
    [...needed].some((metric) => cache.get(`${against}\n${metric}\n${run.key}`)?.version !== run.version);
  const stale = list.filter(isStale);
  if (!stale.length || !metrics.length) return;
  for (let start = 0; start < stale.length; start += RUNS_OF_A_REQUEST) {
    const keys = stale.slice(start, start + RUNS_OF_A_REQUEST).map((run) => run.key);
    for (const curve of await source.curves(keys, [...needed], against))
      cache.set(`${against}\n${curve.metric}\n${curve.run}`, curve);
  }
}

// What was scored once, after training, is a point at the epoch that was scored.
function pointOf(run, metric) {
  const [epoch, value] = [run.summary[`${metric.split("/")[0]}/epoch`], run.summary[metric]];
  return state.against === "epoch" && typeof epoch === "number" && typeof value === "number"
    ? { at: [epoch], x: [epoch], y: [value] }
    : null;
}

// `at` orders the points: the step, or the axis itself. `raw` are the values before smoothing.
function curveOf(run, metric, cache) {
  const fetched = (name) => cache.get(`${fetchedAxis()}\n${name}\n${run.key}`);
  const curve = fetched(metric);
  if (!curve?.x.length) return pointOf(run, metric);
  const values = inUnit(metric, curve.y);
  const even = curve.mean ? inUnit(metric, curve.mean) : values; // the means of what the points of a long curve stand for
  const isSmooth = Number(state.smooth) > 0;
  const y = isSmooth ? smoothed(even, Number(state.smooth)) : values;
  const raw = isSmooth ? values : null;
  const averaged = isSmooth ? y : even;
  const other = metricOfAxis() || (state.against === "images" ? loggedSeen(run) : undefined);
  if (other) return { at: curve.x, x: lastValues(fetched(other) ?? { x: [], y: [] }, curve.x), y, raw, averaged };
  const size = state.against === "images" ? batchSizeOf(run) : 1;
  return size === null ? null : { at: curve.x, x: curve.x.map((step) => step * size), y, raw, averaged };
}

// The last value of a curve at or before some steps.
function lastValues(curve, steps) {
  let next = 0;
  return steps.map((step) => {
    while (next < curve.x.length && curve.x[next] <= step) next += 1;
    return next ? curve.y[next - 1] : null;
  });
}

// An exponential moving average with Adam's bias correction; gaps stay gaps.
function smoothed(values, weight) {
  let [sum, norm] = [0, 0];
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    norm = weight * norm + (1 - weight);
    return sum / norm;
  });
}

// The mean of some curves where any of them has a point, with standard deviation and number of curves; between its
// points a curve is a straight line, and beyond its ends it does not count. There is no mean of less than half of them.
function meanCurve(curves) {
  const arePoints = curves.every((curve) => curve.x.length === 1);
  const byAxis = !arePoints && curves.every((curve) => metricOfAxis() === "" && isAscending(curve.x));
  const along = curves.map((curve) => (arePoints ? [0] : byAxis ? curve.x : curve.at));
  const all = [...new Set(along.flat())].sort((a, b) => a - b);
  const skip = Math.ceil(all.length / POINTS_OF_A_MEAN);
  const grid = all.filter((_, index) => index % skip === 0 || index === all.length - 1);
  const values = curves.map((curve, index) => interpolated(along[index], curve.averaged ?? curve.y, grid));
  const abscissas = byAxis ? null : curves.map((curve, index) => interpolated(along[index], curve.x, grid));
  const points = grid
    .map((point, index) => {
      const some = values
        .map((row, number) => [row[index], abscissas ? abscissas[number][index] : point])
        .filter(([y, x]) => y !== null && x !== null);
      const y = some.map(([value]) => value);
      return {
        x: mean(some.map(([, value]) => value)),
        y: mean(y),
        sd: y.length > 1 ? deviation(y) : null,
        n: y.length,
      };
    })
    .filter(({ n }) => n > 0 && 2 * n >= curves.length);
  return Object.fromEntries(["x", "y", "sd", "n"].map((name) => [name, points.map((point) => point[name])]));
}

const isAscending = (values) =>
  values.every((value, index) => value !== null && (index === 0 || value >= values[index - 1]));

function interpolated(at, values, grid) {
  let index = 0;
  return grid.map((point) => {
    while (index < at.length - 1 && at[index + 1] <= point) index += 1;
    if (!at.length || point < at[0] || point > at.at(-1)) return null;
    const [low, high] = [values[index], values[index + 1] ?? null];
    if (at[index] === point) return low;
    return low === null || high === null
      ? null
      : low + ((point - at[index]) / (at[index + 1] - at[index])) * (high - low);
  });
}
