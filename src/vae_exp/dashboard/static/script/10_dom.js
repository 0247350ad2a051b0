"use strict";
// The only place that makes elements: names and texts of runs become text, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else if (["value", "checked", "selected", "disabled"].includes(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...presentOf(children));
  return element;
}

const presentOf = (children) =>
  children.flat(3).filter((child) => child !== null && child !== undefined && child !== false);

const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const labelledSvg = (width, height, role, label, ...children) =>
  svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role, "aria-label": label }, ...children);
const option = (value, chosen, text = value) => el("option", { value, selected: value === chosen }, String(text));

function choice(label, values, chosen, onChange) {
  const select = el("select", { on: { change: () => onChange(select.value) } });
  const pairs = values.map((item) => (Array.isArray(item) ? item : [item, item]));
  if (chosen !== undefined && chosen !== null && !pairs.some(([value]) => value === chosen))
    pairs.unshift([chosen, chosen]);
  select.append(...pairs.map(([value, text]) => option(value, chosen, text)));
  return el("label", {}, label, select);
}

function tick(label, checked, onChange) {
  const box = el("input", { type: "checkbox", checked, on: { change: () => onChange(box.checked) } });
  return el("label", {}, box, label);
}

// A menu of checkboxes.
function boxes(label, values, chosen, onChange, titleOf = (value) => value) {
  const now = new Set(chosen);
  return menuOf(
    label,
    values.map((value) =>
      tick(titleOf(value), now.has(value), (on) => {
        if (on) now.add(value);
        else now.delete(value);
        onChange(values.filter((item) => now.has(item)));
      }),
    ),
  );
}

// A menu stays open while it is used, and Escape closes it. It is moved to the left where it would be cut at the right.
function menuOf(label, ...items) {
  const box = el("div", {}, items);
  const menu = el("details", { class: "menu" }, el("summary", {}, label), box);
  menu.addEventListener("toggle", () => {
    const over = menu.getBoundingClientRect().left + box.offsetWidth + 16 - document.documentElement.clientWidth;
    box.style.marginLeft = over > 0 && getComputedStyle(box).position === "absolute" ? `${-over}px` : "";
  });
  menu.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });
  menu.addEventListener("focusout", (event) => {
    if (event.relatedTarget && !menu.contains(event.relatedTarget)) menu.open = false;
  });
  return menu;
}

// Replace the children and keep scroll positions, what is open, and the focus: on the same element if it still exists,
// else on the one with the same data-key.
function refill(container, ...children) {
  const parts = [container, ...container.querySelectorAll(".scroll[data-key], details[data-key]")];
  const before = parts.map((part) => [part.dataset.key, part.scrollTop, part.scrollLeft, part.open]);
  keepFocus(container, () => container.replaceChildren(...presentOf(children)));
  before.forEach(([key, top, left, open], index) => {
    const part = index ? withKey(container, key) : container;
    if (!part) return;
    part.scrollTop = top;
    part.scrollLeft = left;
    if (part.tagName === "DETAILS") part.open = open;
  });
}

const withKey = (container, key) => key && container.querySelector(`[data-key="${CSS.escape(key)}"]`);

function keepFocus(container, change) {
  const focused = container.contains(document.activeElement) ? document.activeElement : null;
  change();
  if (!focused || document.activeElement === focused) return;
  const target = focused.isConnected ? focused : withKey(container, focused.dataset.key);
  if (target) target.focus({ preventScroll: true });
}

function keyed(element, key) {
  element.dataset.key = key;
  return element;
}

// Make the children of an element these, and leave alone those that stay.
function arrangeChildren(container, children) {
  const wanted = new Set(children);
  for (const child of [...container.children]) if (!wanted.has(child)) child.remove();
  children.forEach(
    (child, index) =>
      container.children[index] === child || container.insertBefore(child, container.children[index] ?? null),
  );
}

const isInUse = (container) => container.contains(document.activeElement);

function debounce(action, milliseconds) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...args), milliseconds);
  };
}

// Offer a file for saving.
function download(blob, name) {
  const address = URL.createObjectURL(blob);
  const link = el("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

// Whether a spreadsheet would evaluate a text; signed numbers are not formulas.
const isFormula = (text) => /^\s*[=+@-]/.test(text) && Number.isNaN(Number(text));

function saveCsv(rows, name) {
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = rows.map((texts) => texts.map((text) => quoted(isFormula(text) ? `'${text}` : text)).join(","));
  download(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }), name);
}
