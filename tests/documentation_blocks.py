"""Blocks of commands and of Python in the Markdown pages, in the order of each page.

An indented block has commands; what they print, and files, are in fences that name their language. A comment
before a block, `<!-- not run: REASON -->`, keeps it from being executed, and
`<!-- not run on this page: REASON -->` all blocks of a page; their commands are checked all the same.
"""

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

from tests.conftest import CHECKOUT

LOG = "docs/experiment_log.md"
_PYTHON = r"(?:\w+=\S+ )*(?:\S*/)?python3? "
_SHELL = ("", "bash", "sh", "shell", "console")
_EXEMPT = re.compile(r"(?<!`)<!-- not run: (.+?) -->")
_EXEMPT_PAGE = re.compile(r"^<!-- not run on this page: (.+?) -->", re.MULTILINE)
_FENCE = re.compile(r"```\s*\{?\s*\.?(\w*)")


@dataclass(frozen=True)
class Block:
    """A block of a page.

    Args:
        page: Relative to the checkout.
        line: Where it begins.
        kind: `commands`, or the language of a fence.
        text: Without indentation.
        exempt: Why it is not executed; empty where it is.
        file: The path that the paragraph before it names, of a block that shows a file.
    """

    page: str
    line: int
    kind: str
    text: str
    exempt: str
    file: str

    @property
    def commands(self) -> list[str]:
        """The command lines, continued ones joined, without comments; of a text those of ours, as in `--help`."""
        text = re.sub(r" *\\\n *", " ", self.text)
        if self.kind == "commands":
            lines = [re.split(r"(?:^|\s+)#", line)[0].strip() for line in text.splitlines()]
            return [line for line in lines if line]
        lines = re.findall(rf"^ *({_PYTHON}-m .*)$", text, re.MULTILINE) if self.kind == "text" else []
        return [re.split(r"\s{2,}", line)[0].strip() for line in lines]

    @property
    def is_executed(self) -> bool:
        """Whether the test of pages executes the block: no mark exempts it, and it has Python or commands."""
        return not self.exempt and self.kind in ("python", "commands")

    @property
    def lines_without_mark(self) -> list[str]:
        """The command lines that nothing executes although no mark says why."""
        if self.exempt:
            return []
        return [line for line in self.commands if not (self.is_executed and how_it_runs(line))]


def how_it_runs(line: str) -> str:
    """How the test of pages runs a line: `command`, `server`, `shell`, `nothing` to run, or "" if it cannot."""
    own = own_command(line)
    if own and re.match(rf"{_PYTHON}-m ", line):
        name, arguments = own
        serves = {"dashboard": "--export" not in arguments, "explore": "output=" not in " ".join(arguments)}
        return "server" if serves.get(name) else "command"
    if re.match(r"make train$|tar ", line):
        return "shell"
    return "nothing" if re.match(r"cd \S+$|source \.venv/bin/activate$", line) else ""


def pages() -> list[str]:
    """The pages whose blocks are checked."""
    found = [*sorted(CHECKOUT.glob("*.md")), *sorted((CHECKOUT / "docs").rglob("*.md"))]
    return [path.relative_to(CHECKOUT).as_posix() for path in found]


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page in its order."""
    whole = (CHECKOUT / page).read_text()
    lines = whole.splitlines()
    exempt_page = _EXEMPT_PAGE.search(whole)
    index = 0
    while index < len(lines):
        fence = _FENCE.match(lines[index])
        if not fence and not (lines[index].startswith("    ") and index and not lines[index - 1].strip()):
            index += 1
            continue
        start = index
        end = start + 1
        while end < len(lines) and (not lines[end].startswith("```") if fence else lines[end].startswith("    ")):
            end += 1
        text = "\n".join(lines[start + 1 : end] if fence else [part[4:] for part in lines[start:end]])
        kind = "commands" if not fence or fence[1] in _SHELL else fence[1]
        before = " ".join(_paragraph_before(lines, start))
        exempt = exempt_page or _EXEMPT.search(before)
        file = re.fullmatch(r"`([\w/]+\.(?:py|yaml))`", before)
        yield Block(page, start + 1, kind, text, exempt[1] if exempt else "", file[1] if file else "")
        index = end + bool(fence)


def _paragraph_before(lines: list[str], index: int) -> list[str]:
    """The lines of the paragraph before a line."""
    end = index
    while end and not lines[end - 1].strip():
        end -= 1
    start = end
    while start and lines[start - 1].strip():
        start -= 1
    return lines[start:end]


def python_code(page: str) -> list[str]:
    """The Python blocks of a page."""
    return [block.text for block in blocks(page) if block.kind == "python"]


def docs_script(name: str) -> ModuleType:
    """A script of docs/, which imports its neighbours."""
    sys.path.insert(0, str(CHECKOUT / "docs"))
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(CHECKOUT / "docs"))


def own_command(line: str) -> tuple[str, list[str]] | None:
    """The command of ours that a line starts, and its arguments; None for another program."""
    match = re.search(r"-m vae_exp\.(\w+)(.*)", line)
    return (match[1], shlex.split(match[2])) if match else None


def write_files(page: str, folder: Path) -> None:
    """Write every file that a page shows."""
    for block in blocks(page):
        if block.file:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(f"{block.text}\n")
