// The controls of latent units: a plane, and sliders for the others.

const MOST_SLIDERS = 64;
const DEAD_RATE = 0.01; // nats per image, as the warning of a collapsed posterior has it

const textOfRate = (rate) => rate.toFixed(Math.abs(rate) < 0.1 ? 4 : 2); // on both sides of DEAD_RATE
const signed = (value) => value.toFixed(2).replace("-", "−");

// The plane, and sliders for the other units, those with the highest rate first.
function unitControls(bundle, latent, changed, display) {
  const hasCodes = bundle.count("codes") > 0;
  const plane = bundle.latent_dim < 2 ? null : planeOf(bundle, bundle.latent_dim === 2 ? "0,1" : state.plane);
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
