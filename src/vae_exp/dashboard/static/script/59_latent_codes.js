// The controls of a codebook: the codes of the image, and the entries.

// The grid of positions, and the entries of the codebook: choose a position, then what it holds.
function codeControls(bundle, latent, changed) {
  const [height, width] = bundle.codebook.grid;
  let position = 0;
  const positions = el("table", { class: "codes", "aria-label": "Codes of the image" });
  const entries = el("div", { class: "entries", role: "group", "aria-label": "Entries of the codebook" });
  const pictures = Array.from({ length: bundle.codebook.codes }, (_, code) => entryPicture(bundle, code));
  const buttons = pictures.map((picture, code) =>
    el(
      "button",
      {
        type: "button",
        class: "thumb",
        "aria-label": `Entry ${code}`,
        title: `Entry ${code}`,
        on: {
          click: () => {
            latent.codes[position] = code;
            setLatents(bundle, latent, latent.codes);
            changed();
          },
        },
      },
      picture ?? String(code),
    ),
  );
  entries.append(...buttons);
  const show = () => {
    refill(
      positions,
      el(
        "tbody",
        {},
        Array.from({ length: height }, (_, row) =>
          el(
            "tr",
            {},
            Array.from({ length: width }, (_, column) => {
              const index = row * width + column;
              return el(
                "td",
                {},
                el(
                  "button",
                  {
                    type: "button",
                    "data-key": `code ${index}`,
                    "aria-pressed": index === position ? "true" : "false",
                    "aria-label": `Row ${row + 1}, column ${column + 1}: entry ${latent.codes[index]}`,
                    on: {
                      click: () => {
                        position = index;
                        show();
                      },
                    },
                  },
                  String(latent.codes[index]),
                ),
              );
            }),
          ),
        ),
      ),
    );
    buttons.forEach((button, code) =>
      button.setAttribute("aria-pressed", code === latent.codes[position] ? "true" : "false"),
    );
  };
  return {
    map: [
      el("h3", {}, `Codes, ${height} × ${width} positions: choose one, then an entry`),
      el("div", { class: "scroll" }, positions),
    ],
    units: null,
    show,
    below: [
      el(
        "h3",
        {},
        `Codebook, ${bundle.codebook.codes} entries${bundle.decoder ? ", decoded with one at every position" : ""}`,
      ),
      entries,
    ],
  };
}

function entryPicture(bundle, code) {
  if (!bundle.decoder) return null;
  const entry = { z: null, codes: [] };
  setLatents(
    bundle,
    entry,
    Array.from({ length: product(bundle.codebook.grid) }, () => code),
  );
  const { canvas, paint } = imageCanvas(bundle.image_shape, "");
  paint(decodeHere(bundle, entry.z, 0));
  return canvas;
}
