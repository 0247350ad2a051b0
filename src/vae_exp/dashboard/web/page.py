"""The page, assembled from its parts: one script, one style sheet, Plotly from its wheel."""

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
    """Return the dashboard's script: the parts in the order of their names."""
    parts = sorted((_STATIC / "script").iterdir(), key=lambda part: part.name)
    return "\n".join(part.read_text(encoding="utf-8") for part in parts)


@cache
def style() -> str:
    """Return the dashboard's style sheet."""
    return (_STATIC / "style.css").read_text(encoding="utf-8")


@cache
def plotly() -> str:
    """Return Plotly's script.

    Raises:
        UserError: if the package plotly is not installed.
    """
    spec = find_spec("plotly")
    path = Path(spec.origin).parent / "package_data" / "plotly.min.js" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UserError("the dashboard needs plotly.min.js of the package plotly: pip install plotly.")
    return path.read_text(encoding="utf-8")


@cache
def index(notes_token: str = "") -> str:
    """Return the served page, which fetches everything; with a token it may save notes."""
    link = '<link rel="stylesheet" href="style.css">'
    head = f'<meta name="notes-token" content="{notes_token}">' if notes_token else ""
    return render(head=head, style=link, data="", scripts='<script src="app.js"></script>')


def render(head: str, style: str, data: str, scripts: str) -> str:
    """Fill the template of the page."""
    # These elements keep Plotly from adding style sheets of maps, which the page's policy would refuse.
    ids = sorted(set(_STYLE_IDS.findall(plotly())))
    placeholders = "\n".join(f'<span id="{name}" hidden></span>' for name in ids)
    parts = {"HEAD": head, "STYLE": style, "PLACEHOLDERS": placeholders, "DATA": data, "SCRIPTS": scripts}
    template = (_STATIC / "index.html").read_text(encoding="utf-8")
    return re.sub(r"<!--([A-Z]+)-->", lambda match: parts[match[1]], template)
