// The rows of a long table: only those near the visible part exist, and gaps are as high as the others would be.

const ROWS_BEYOND = 450; // pixels above and below the visible part in which rows are made
const ROWS_AHEAD = 200; // pixels of them that stay while the table is scrolled

// Returns a function that draws a head and the rows of items `{ key, make }`, where `make()` returns the row. Columns do not
// become narrower as long as the signature stays.
function virtualRows(scroll, table) {
  const heights = new Map(); // of rows that are not as high as usual
  const widest = new Map(); // by column, the width of the longest text
  const sizer = el("tbody", { class: "sizer", "aria-hidden": "true" });
  const body = el("tbody");
  let [head, items, signature, usual] = [null, [], null, 28];
  let [from, to] = [0, 0]; // the pixels in which all rows exist
  let measured = new WeakSet();
  const heightOf = (item) => heights.get(item.key) ?? usual;

  // The rows near the visible part and the one that has the focus, and gaps between them.
  function rows() {
    const focused = body.contains(document.activeElement)
      ? document.activeElement.closest("tr").dataset.row
      : undefined;
    const result = [];
    let [end, gap] = [0, 0];
    items.forEach((item, index) => {
      const [start, height] = [end, heightOf(item)];
      end += height;
      if ((end > from && start < to) || item.key === focused) {
        if (gap) result.push(gapOf(gap));
        gap = 0;
        const row = item.make();
        row.dataset.row = item.key;
        row.setAttribute("aria-rowindex", index + 2);
        result.push(row);
      } else gap += height;
    });
    if (gap) result.push(gapOf(gap));
    return result;
  }

  const gapOf = (height) =>
    el(
      "tr",
      { class: "gap", "aria-hidden": "true" },
      el("td", { colspan: head.querySelectorAll("th").length, style: `height: ${height}px` }),
    );

  // Note how high new rows are, and keep columns as wide as they were by a row that has no height.
  function measure() {
    const fresh = [...body.children].filter((row) => row.dataset.row && !measured.has(row));
    const high = fresh.map((row) => row.getBoundingClientRect().height);
    if (fresh.length > 2) usual = [...high].sort((a, b) => a - b)[Math.floor(high.length / 2)];
    const longest = new Map(); // by column, of the new rows
    fresh.forEach((row, index) => {
      measured.add(row);
      if (Math.abs(high[index] - usual) < 0.01) heights.delete(row.dataset.row);
      else heights.set(row.dataset.row, high[index]);
      row.querySelectorAll("td").forEach((cell, column) => {
        if (cell.textContent.length > (longest.get(column)?.textContent.length ?? 0)) longest.set(column, cell);
      });
    });
    const content = document.createRange();
    let grown = false;
    longest.forEach((cell, column) => {
      content.selectNodeContents(cell);
      const { width } = content.getBoundingClientRect();
      if (width > (widest.get(column) ?? 0)) {
        widest.set(column, width);
        grown = true;
      }
    });
    if (grown)
      sizer.replaceChildren(
        el(
          "tr",
          {},
          Array.from(head.querySelectorAll("th"), (_, column) =>
            el("td", {}, el("div", { style: `width: ${widest.get(column) ?? 0}px` })),
          ),
        ),
      );
  }

  function draw() {
    const top = scroll.scrollTop - (head?.offsetHeight ?? 0);
    [from, to] = [top - ROWS_BEYOND, top + (scroll.clientHeight || innerHeight) + ROWS_BEYOND];
    arrangeChildren(body, rows());
    measure();
  }

  function follow() {
    const top = scroll.scrollTop - (head?.offsetHeight ?? 0);
    if (top - ROWS_AHEAD < Math.max(0, from) || top + scroll.clientHeight + ROWS_AHEAD > to) draw();
  }

  let frame = 0;
  scroll.addEventListener(
    "scroll",
    () => {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(follow);
    },
    { passive: true },
  );
  new ResizeObserver(follow).observe(scroll);

  return (newHead, newItems, newSignature) => {
    if (newSignature !== signature) {
      widest.clear();
      heights.clear();
      measured = new WeakSet();
    }
    [head, items, signature] = [newHead, newItems, newSignature];
    table.setAttribute("aria-rowcount", items.length + 1);
    keepFocus(table, () => {
      arrangeChildren(table, [head, sizer, body]);
      draw();
    });
  };
}
