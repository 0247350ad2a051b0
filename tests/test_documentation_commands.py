"""Every command of the documentation is executed or marked, and its config composes or its arguments parse."""

import os
import re
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep

from tests.composing import composed
from tests.conftest import CHECKOUT
from tests.documentation_blocks import LOG, blocks, docs_script, own_command, pages, write_files
from vae_exp.configuration import schema
from vae_exp.configuration.parsing import parse_config

FLAGS = {"--cfg": 1, "--config-dir": 1, "--multirun": 0, "--help": 0, "--hydra-help": 0, "--resolve": 0}
CHECKED = [page for page in pages() if page != LOG and any(blocks(page))]  # commands of the log are of their day
PLACEHOLDERS = {"hydra/launcher=NAME": "hydra/launcher=pool"}


def single(override: str) -> str:
    """An override with one of its values, where it names several; a letter of the text is a number."""
    override = re.sub(r"(?<==)(S|K|N|NZ)$", "1", PLACEHOLDERS.get(override, override))
    parsed = OverridesParser.create().parse_override(override)
    if not parsed.is_sweep_override():
        return override
    sweep = parsed.value()
    value = sweep.start if isinstance(sweep, IntervalSweep) else next(iter(parsed.sweep_string_iterator()))
    return f"{parsed.get_key_element()}={int(value) if 'int(' in override else value}"


def check_composes(command: str, arguments: list[str]) -> None:
    """Compose the config that a command line asks for, every value within its range."""
    overrides, queue = [], [argument for argument in arguments if not argument.startswith("[")]
    while queue:
        argument = queue.pop(0)
        if argument.startswith("--"):
            values = [queue.pop(0) for _ in range(FLAGS[argument])]
            if argument == "--config-dir":
                overrides.append(f"hydra.searchpath=[file://{os.path.abspath(values[0])}]")  # noqa: PTH100
        elif "=" in argument or argument.startswith("~"):
            overrides.append(argument if argument.startswith("~") else single(argument))
        else:
            overrides.append(f"run={argument}")
    parse_config(composed(command, *overrides), schema.COMMANDS[command])


def check_parses(command: str, arguments: list[str]) -> None:
    """Parse the arguments of a command that has options of its own."""
    docs_script("write_reference").make_parsers()[command].parse_args(arguments)


def check_other(line: str) -> None:
    """What another program is given lies in the checkout: a target of make, a script, a folder of tests."""
    words = shlex.split(line)
    if words[0] == "make":
        makefile = (CHECKOUT / "Makefile").read_text()
        assert all(re.search(rf"^{word}:", makefile, re.MULTILINE) for word in words[1:] if "=" not in word)
    for word in words:
        if re.fullmatch(r"(docs|benchmarks|tests)/[\w/]+\.\w+", word):
            assert (CHECKOUT / word).exists(), word


@pytest.mark.parametrize("page", CHECKED)
def test_the_commands_of_a_page_are_understood(page, tmp_path, monkeypatch):
    write_files(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        if block.kind == "python":
            compile(block.text, f"{page}:{block.line}", "exec")
        for line in block.commands:
            own = own_command(line)
            try:
                if own is None:
                    check_other(line)
                elif own[0] in schema.COMMANDS:
                    check_composes(*own)
                else:
                    check_parses(*own)
            except (Exception, SystemExit) as error:
                pytest.fail(f"{page}:{block.line}: {line}\n{type(error).__name__}: {error}")


def test_every_block_of_commands_is_executed_or_marked():
    every = [block for page in pages() for block in blocks(page)]
    missing = [f"{block.page}:{block.line}: {line}" for block in every for line in block.lines_without_mark]
    assert not missing, "\n".join(["no test executes these: write <!-- not run: REASON --> before them", *missing])


def test_the_blocks_are_found():
    assert [
        page for page in pages() if re.search(r"^( +```|~~~)", (CHECKOUT / page).read_text(), re.MULTILINE)
    ] == []
    lines = [line for page in CHECKED for block in blocks(page) for line in block.commands]
    assert len([line for line in lines if own_command(line)]) > 120
    reasons = [block.exempt for page in pages() for block in blocks(page) if block.exempt]
    assert all(len(reason.split()) > 1 for reason in reasons)
