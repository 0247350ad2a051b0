// The styles of lines: eight colours (`--c0` … `--c7` of the style sheet) times four dashes; a ramp for numbers.

const COLOURS = 8;
const RAMP_STOPS = 5; // `--r0` … `--r4`
const DASHES = [[], [9, 4], [3, 3], [9, 3, 3, 3]]; // pixels of line and gap, as the classes `d0` … `d3` draw them
const SYMBOLS = ["circle", "square", "diamond", "triangle-up"]; // of single points, in the place of dashes
const variable = (name, root = document.documentElement) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
const colour = (name) => variable(name);

// A style's colour is its number, `{ at }` from 0 to 1 on the ramp, or a text such as `#7d848d`.
function cssOf(tint, root) {
  if (typeof tint === "string") return tint;
  if (typeof tint === "number") return variable(`c${tint}`, root);
  const position = Math.min(1, Math.max(0, tint.at)) * (RAMP_STOPS - 1);
  const low = Math.min(RAMP_STOPS - 2, Math.floor(position));
  const [from, to] = [low, low + 1].map((stop) =>
    [1, 3, 5].map((at) => parseInt(variable(`r${stop}`, root).slice(at, at + 2), 16)),
  );
  return `#${from
    .map((value, index) =>
      Math.round(value + (position - low) * (to[index] - value))
        .toString(16)
        .padStart(2, "0"),
    )
    .join("")}`;
}

const dashOf = (dash, unit = "px") => DASHES[dash].map((length) => `${length}${unit}`).join(",");
const swatch = ({ colour: tint, dash }) =>
  el("span", {
    class: `swatch d${dash}`,
    style: `color: ${typeof tint === "number" ? `var(--c${tint})` : cssOf(tint)}`,
    "aria-hidden": "true",
  });

// A style for each of some lines. `tints` and `dashes` are numbers that a key decides, or null; what no key decides
// differs among all lines as long as there are combinations, and is the wanted one where that is free.
function stylesOf(wishes, tints, dashes) {
  const taken = new Set();
  return wishes.map((wish, index) => {
    const [tint, dash] = [tints?.[index] ?? null, dashes?.[index] ?? null];
    if (tint !== null) return { colour: tint, dash: dash ?? 0 };
    const wanted = { colour: wish.colour, dash: dash ?? wish.dash };
    const offered = [wanted];
    for (let number = 0; number < COLOURS * DASHES.length; number += 1) {
      const style = { colour: number % COLOURS, dash: Math.floor(number / COLOURS) };
      if (dash === null || style.dash === dash) offered.push(style);
    }
    const style = offered.find((item) => !taken.has(`${item.colour} ${item.dash}`)) ?? wanted;
    taken.add(`${style.colour} ${style.dash}`);
    return style;
  });
}
