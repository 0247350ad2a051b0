// How numbers are shown: metrics with the decimals of `vae_exp.metrics`, as its `format_value` does; the same in a column.

const decimals = new Map();
const SIGNIFICANT_DIGITS = 5;
const MAX_DECIMALS = 6;
const FORMATS = Array.from(
  { length: MAX_DECIMALS + 1 },
  (_, digits) => new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }),
);

// A comma separates thousands. What its decimals cannot show, and the very large, have a power of ten.
function fixed(value, digits) {
  const size = Math.abs(value);
  if (size >= 1e9 || (size > 0 && size < Math.min(0.1, 10 ** -digits))) return value.toExponential(2);
  return FORMATS[digits].format(value + 0); // without the sign of zero
}

// Of a metric without decimals of its own: as many as five significant digits of the numbers need.
function decimalsOf(key, numbers) {
  if (decimals.has(key)) return decimals.get(key);
  const sizes = numbers.map(Math.abs).filter((size) => size >= 10 ** -MAX_DECIMALS && size < Infinity);
  const needed = sizes.map((size) => String(Number(size.toPrecision(SIGNIFICANT_DIGITS))).split(".")[1]?.length ?? 0);
  const most = sizes.reduce((one, other) => Math.max(one, other), 1);
  return Math.max(
    0,
    Math.min(
      needed.reduce((one, other) => Math.max(one, other), 0),
      MAX_DECIMALS - Math.floor(Math.log10(most)),
    ),
  );
}

// Means of counts have a decimal.
const withError = ({ mean: value, error }, digits) =>
  fixed(value, digits || 1) + (Number.isFinite(error) ? ` ± ${fixed(error, digits || 1)}` : "");

// Any value: a metric as above, a number of a config with all that it needs.
function shown(value, key = "") {
  if (key.endsWith("_target_") && typeof value === "string") return lastName(value);
  if (typeof value !== "number") return textOf(value);
  if (decimals.has(key)) return fixed(value, decimals.get(key));
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return String(value);
  const short = Number(value.toPrecision(SIGNIFICANT_DIGITS));
  return size >= 1e6 || (size > 0 && size < 1e-4) ? short.toExponential() : String(short);
}

// Of a curve, for Plotly.
function hoverFormat(metric, numbers) {
  const digits = decimals.get(metric);
  const isShown = (value) => !Number.isFinite(value) || value === 0 || Math.abs(value) >= 10 ** -digits;
  return digits !== undefined && numbers.every(isShown) ? `,.${digits}f` : `.${SIGNIFICANT_DIGITS}g`;
}

const DATE = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "short" });
const moment = (seconds) => (seconds ? DATE.format(seconds * 1000) : "");

function duration(seconds) {
  if (typeof seconds !== "number") return "";
  if (seconds < 100) return `${Number(seconds.toPrecision(3))} s`;
  return seconds < 6000 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
