"""Draw docs/architecture.svg: the packages in their layers, and which of them import which.

    python docs/architecture.py

The layers are those of the import-linter contract in pyproject.toml, the arrows the imports in src/vae_exp. An
arrow that follows from others is left out, as are those to the lowest layer, which every package may import.
"""

import tomllib
from pathlib import Path

import grimp
import matplotlib
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

matplotlib.use("svg")
from matplotlib import pyplot

CHECKOUT = Path(__file__).parent.parent
BOX_HEIGHT = 0.56
COLOURS = {"commands": "#d7e3f4", "machinery": "#e8e8e8", "science": "#d9efd9"}
SCIENCE = {"model", "objective", "distributions", "data", "evaluation"}


def read_layers() -> list[list[str]]:
    """The packages of every layer, the commands first."""
    contract = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    return [[name.strip() for name in layer.replace(":", "|").split("|")] for layer in contract["layers"]]


def read_imports(packages: set[str]) -> set[tuple[str, str]]:
    """The packages that import one another, as (importer, imported)."""
    graph = grimp.build_graph("vae_exp", cache_dir=None)
    pairs = {
        (module.split(".")[1], imported.split(".")[1])
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if "." in module and "." in imported
    }
    return {
        (importer, imported)
        for importer, imported in pairs
        if importer != imported and {importer, imported} <= packages
    }


def reduce(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The pairs that do not follow from a chain of others (the transitive reduction)."""

    def reachable(start: str, without: tuple[str, str]) -> set[str]:
        reached, waiting = set(), [start]
        while waiting:
            node = waiting.pop()
            targets = {
                imported for importer, imported in pairs if importer == node and (importer, imported) != without
            }
            waiting += targets - reached
            reached |= targets
        return reached

    return {pair for pair in pairs if pair[1] not in reachable(pair[0], pair)}


def place_boxes(layers: list[list[str]]) -> dict[str, tuple[float, float, float]]:
    """Centre x, centre y and width of every box; a layer is a row."""
    boxes = {}
    for row, layer in enumerate(layers):
        width = min(1.9, 11.4 / len(layer) - 0.12)
        step = 11.6 / len(layer)
        for column, name in enumerate(layer):
            boxes[name] = (step * (column + 0.5), -1.15 * row, width)
    return boxes


def draw_box(axes: Axes, name: str, box: tuple[float, float, float], is_command: bool) -> None:
    """A command, a package of the science or one of the machinery, each in its colour."""
    x, y, width = box
    kind = "science" if name in SCIENCE else "commands" if is_command else "machinery"
    corner = (x - width / 2, y - BOX_HEIGHT / 2)
    style = "round,pad=0,rounding_size=0.08"
    axes.add_patch(
        FancyBboxPatch(
            corner, width, BOX_HEIGHT, boxstyle=style, facecolor=COLOURS[kind], edgecolor="#555555", zorder=2
        )
    )
    source = CHECKOUT / "src/vae_exp" / name
    modules = len(list(source.rglob("*.py")))
    text = f"{name}\n{modules} modules" if source.is_dir() else f"{name}.py"
    axes.text(x, y, text, ha="center", va="center", fontsize=8, linespacing=1.3, zorder=3)


def main() -> None:
    """Write the picture."""
    layers = read_layers()
    boxes = place_boxes(layers)
    commands = {name for layer in layers[: layers.index(["cli"])] for name in layer}
    figure, axes = pyplot.subplots(figsize=(10, 1.05 * len(layers)))
    for importer, imported in reduce(read_imports(set(boxes) - set(layers[-1]))):
        start, end = boxes[importer], boxes[imported]
        axes.annotate(
            "",
            xy=(end[0], end[1] + BOX_HEIGHT / 2),
            xytext=(start[0], start[1] - BOX_HEIGHT / 2),
            arrowprops={"arrowstyle": "-|>", "color": "#33587a"},
            zorder=1,
        )
    for name, box in boxes.items():
        draw_box(axes, name, box, name in commands)
    axes.set_xlim(0, 11.6)
    axes.set_ylim(-1.15 * (len(layers) - 1) - 0.5, 0.5)
    axes.axis("off")
    matplotlib.rcParams["svg.hashsalt"] = "vae_exp"
    figure.savefig(CHECKOUT / "docs/architecture.svg", bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()
