// The metric against one key: a point for each setting, the means over the others as lines.

const MOST_STEPS = 30; // values of a key that a line joins, where each has a single run

// The other key of the heat map decides the colours against a key, if it has few values.
function secondKey(list, key, rows, cols) {
  const second = cols === key ? rows : cols;
  return second && second !== key && !isSeed(second) && valuesOf(list, second).length <= COLOURS ? second : "";
}

function styledValues(list, second) {
  const values = second ? valuesOf(list, second) : [];
  return values.map((value, index) => {
    const members = list.filter((run) => textBy(run, second) === value);
    return { value, label: labelBy(members[0], [second]), style: { colour: index, dash: 0 }, members };
  });
}

function keyCaption(list, key, second, metric, plain) {
  const hasLines = isNumeric(list, key);
  const [one, several] = [
    meaningOf(list, [...plain, key], metric),
    meaningOf(list, hasLines && second ? [key, second] : [key], metric),
  ];
  const parts = [
    `points: ${one}`,
    one.startsWith("mean") ? "bars: standard errors over seeds" : "",
    several === one ? "" : `${!hasLines ? "dashes" : second ? "lines" : "line"}: ${several.split("; ").at(-1)}`,
  ];
  return parts.filter(Boolean).join("; ");
}

function drawAgainstKey(chart, list, { key, second, tints, metric, keys }) {
  const measured = finite(list, metric).filter((run) => key in run.config);
  if (!key || !measured.length) {
    clear(chart);
    return null;
  }
  const numeric = isNumeric(measured, key);
  const order = valuesOf(measured, key);
  const estimates = settingsAt(measured, key).map((members) => estimateOf(members, metric));
  const valueIn = ({ members: [run] }) => tints.find(({ value }) => value === textBy(run, second));
  const styles = second
    ? estimates.map((item) => valueIn(item).style)
    : stylesOf(estimates.map(({ members }) => members[0]));
  const labels = estimates.map(({ members }) => groupLabel(members, keys));
  const xOf = (run) => (numeric ? run.config[key] : escaped(textBy(run, key)));
  const points = {
    type: "scatter",
    mode: "markers",
    x: estimates.map(({ members }) => xOf(members[0])),
    y: estimates.map((item) => item.mean),
    error_y: errorBars(estimates),
    text: labels.map(escaped),
    hovertemplate: `%{text}<br>%{y:${hoverFormat(
      metric,
      estimates.map((item) => item.mean),
    )}}<extra></extra>`,
    marker: {
      color: styles.map((style) => cssOf(style.colour)),
      symbol: styles.map((style) => SYMBOLS[style.dash]),
      size: 8,
    },
  };
  const means =
    order.length > MOST_STEPS && order.length === measured.length
      ? []
      : meansAgainst(measured, order, { key, metric, values: numeric ? tints : [] });
  const lines = means.map(({ style, x, y }) => ({
    type: "scatter",
    mode: numeric ? "lines" : "markers",
    x: numeric ? x.map(Number) : x.map(escaped),
    y,
    hoverinfo: "skip",
    line: { color: cssOf(style.colour), dash: style.dash ? "dot" : "solid", width: 1.8 },
    marker: { symbol: "line-ew-open", size: 30, color: colour("ink"), line: { width: 2 } },
  }));
  const axis = numeric
    ? axisOf(order.map(Number))
    : { type: "category", categoryorder: "array", categoryarray: order.map(escaped) };
  draw(
    chart,
    [...lines, points],
    layoutOf(key, withUnit(metric, labelOfMetric(list, metric)), { xaxis: axis, uirevision: `${key}${metric}` }),
  );
  return figureOfKey(list, key, metric, {
    numeric,
    order,
    means,
    estimates,
    styles,
    labels,
    legends: second ? estimates.map((item) => valueIn(item).label) : labels,
    isLog: axis.type === "log",
  });
}

// The mean at each value of a key, of all runs or for each value of a second one.
function meansAgainst(measured, order, { key, metric, values }) {
  const all = { label: "mean", style: { colour: "#7d848d", dash: 2 }, members: measured };
  return (values.length ? values : [all]).map(({ label, style, members }) => {
    const means = order
      .map((value) => [
        value,
        combined(
          members.filter((run) => textBy(run, key) === value),
          metric,
        ),
      ])
      .filter(([, item]) => item);
    return { label, style, x: means.map(([value]) => value), y: means.map(([, item]) => item.mean) };
  });
}

function figureOfKey(list, key, metric, { numeric, order, means, estimates, styles, labels, legends, isLog }) {
  const place = (text) => (numeric ? Number(text) : order.indexOf(text));
  const points = estimates.map((estimate, index) =>
    pointOfEstimate(place(textBy(estimate.members[0], key)), estimate, labels[index], legends[index], styles[index]),
  );
  const lines = means.flatMap(({ label, style, x, y }) => {
    const ofMean = { label, legend: label, sd: null, n: null, style };
    return numeric
      ? [{ ...ofMean, x: x.map(Number), y }]
      : x.map((text, index) => ({ ...ofMean, x: [place(text)], y: [y[index]] }));
  });
  return {
    title: `${labelOfMetric(list, metric)} against ${key}`,
    xTitle: key,
    yTitle: withUnit(metric, labelOfMetric(list, metric)),
    lines: [...lines, ...points],
    spread: "standard error",
    categories: numeric ? null : order,
    log: { x: isLog, y: false },
    range: { x: numeric ? null : [-0.5, order.length - 0.5], y: null },
  };
}
