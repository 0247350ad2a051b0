// The importance of keys, as bars.

const RUNS_FOR_IMPORTANCE = 10;

// The share of the metric's variance between the values of a key, less what as many random groups would have: of the
// variance that no key explains, or, where the keys together explain all, of the variance within the values (adjusted
// correlation ratio). A key with many numbers has the quarters of their range as values.
function drawImportance(box, list, keys, metric) {
  const measured = finite(list, metric);
  const name = labelOfMetric(list, metric);
  if (measured.length < RUNS_FOR_IMPORTANCE) {
    refill(
      box,
      el("p", { class: "quiet" }, `From ${RUNS_FOR_IMPORTANCE} finished runs on; there are ${measured.length}.`),
    );
    return null;
  }
  const together = new Map(keysTogether(measured, keys).map((some) => [some[0], some]));
  const shares = sharesOf(measured, [...together.keys()], metric)
    .sort((a, b) => b[1] - a[1])
    .slice(0, 12);
  if (!shares.length) {
    refill(box, el("p", { class: "quiet" }, `${name} is the same for all runs, or no value of a key is shared.`));
    return null;
  }
  const several = shares.map(([key]) => together.get(key)).filter((some) => some.length > 1);
  const drawing = barChart(
    shares.map(([key, share]) => [together.get(key).length > 1 ? `${key}, …` : key, share]),
    (share) => `${Math.round(100 * share)} %`,
    1,
  );
  refill(
    box,
    drawing,
    several.map((some) => el("p", { class: "quiet" }, `Always change together: ${some.join(", ")}.`)),
    el(
      "p",
      { class: "quiet" },
      `Variance of ${name} that goes with each key alone, over ${measured.length} finished runs. Approximate: keys that only matter together are not seen.`,
    ),
  );
  return {
    title: `importance of keys for ${name}`,
    drawing,
    table: [
      ["key", `share of the variance of ${name}`],
      ...shares.map(([key, share]) => [together.get(key).join(", "), textOf(share)]),
    ],
  };
}

function sharesOf(list, keys, metric) {
  const n = list.length;
  const numbers = list.map((run) => number(run, metric));
  const all = mean(numbers);
  const total = numbers.reduce((sum, item) => sum + (item - all) ** 2, 0);
  const effects = keys
    .map((key) => ({ key, ...betweenValues(list, key, numbers, all) }))
    .filter(({ values }) => values > 1 && values < n);
  if (total === 0) return [];
  const unexplained = total - effects.reduce((sum, { between }) => sum + between, 0);
  const freedom = n - 1 - effects.reduce((sum, { values }) => sum + values - 1, 0);
  return effects.map(({ key, between, values }) => {
    const noise = unexplained > 0 && freedom > 0 ? unexplained / freedom : (total - between) / (n - values);
    return [key, Math.max(0, (between - (values - 1) * noise) / total)];
  });
}

// The sum of squares between the values of a key, and their number.
function betweenValues(list, key, numbers, all) {
  let classes = list.map((run) => textBy(run, key));
  if (new Set(classes).size > 6 && isNumeric(list, key)) {
    const sorted = list.map((run) => run.config[key]).sort((a, b) => a - b);
    classes = list.map((run) => Math.floor((4 * sorted.indexOf(run.config[key])) / sorted.length));
  }
  const groups = new Map();
  classes.forEach((item, index) => groups.set(item, [...(groups.get(item) ?? []), numbers[index]]));
  const between = [...groups.values()].reduce((sum, group) => sum + group.length * (mean(group) - all) ** 2, 0);
  return { between, values: groups.size };
}

function barChart(pairs, format, most = Math.max(...pairs.map(([, value]) => value), 1e-12)) {
  const longest = Math.min(28, Math.max(...pairs.map(([name]) => name.length)));
  const left = 12 + 7.2 * longest;
  const step = 22;
  const height = pairs.length * step + 6;
  return labelledSvg(
    left + 330,
    height,
    "img",
    pairs.map(([name, value]) => `${name} ${format(value)}`).join(", "),
    pairs.map(([name, value], index) => [
      svg("text", { x: left - 6, y: index * step + 17, "text-anchor": "end" }, cut(name, 28)),
      svg(
        "rect",
        { class: "bar", x: left, y: index * step + 5, width: Math.max(1, 250 * (value / most)), height: step - 8 },
        svg("title", {}, `${name}: ${format(value)}`),
      ),
      svg(
        "text",
        { class: "quiet", x: left + Math.max(1, 250 * (value / most)) + 6, y: index * step + 17 },
        format(value),
      ),
    ]),
  );
}
