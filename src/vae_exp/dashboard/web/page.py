"""The page, put together from its parts: one script, one style sheet, Plotly from its wheel."""

import re
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from vae_exp.errors import UserError

_STATIC = files("vae_exp.dashboard") / "static"
_STYLE_IDS = re.compile(r'getElementById\("([0-9a-f]{64})"\)')


@cache
def script() -> str:
    """Our own script: the parts in the order of their names."""
    parts = sorted((_STATIC / "script").iterdir(), key=lambda part: part.name)
    return "\n".join(part.read_text(encoding="utf-8") for part in parts)


@cache
def style() -> str:
    """Our own style sheet."""
    return (_STATIC / "style.css").read_text(encoding="utf-8")


@cache
def plotly() -> str:
    """Plotly's script.

    Raises:
        UserError: if the package plotly is not installed.
    """
    found = find_spec("plotly")
    path = Path(found.origin).parent / "package_data" / "plotly.min.js" if found and found.origin else None
    if path is None or not path.is_file():
        raise UserError("the dashboard needs plotly.min.js of the package plotly: pip install plotly.")
    return path.read_text(encoding="utf-8")


@cache
def index() -> str:
    """The page that asks the server for everything."""
    return filled(
        policy="",
        style='<link rel="stylesheet" href="style.css">',
        data="",
        scripts='<script src="app.js"></script>',
    )


def filled(policy: str, style: str, data: str, scripts: str) -> str:
    """The page with its parts."""
    parts = {"POLICY": policy, "STYLE": style, "PLACEHOLDERS": _placeholders(), "DATA": data, "SCRIPTS": scripts}
    template = (_STATIC / "index.html").read_text(encoding="utf-8")
    return re.sub(r"<!--([A-Z]+)-->", lambda found: parts[found[1]], template)


def _placeholders() -> str:
    """Elements that keep Plotly from adding style sheets of maps, which the page's policy would refuse."""
    return "\n".join(f'<span id="{each}" hidden></span>' for each in sorted(set(_STYLE_IDS.findall(plotly()))))
