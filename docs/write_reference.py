"""Write docs/reference/config.md, metrics.md and commands.md from the code.

    python docs/write_reference.py

Meanings stand where the code has them: in docstrings, in the fields of the schema, in comments of conf/, in the
registry of metrics and in the parsers of the commands.
"""

import argparse
import re
from pathlib import Path

import yaml
from config_reference import write_config_page
from documented_arguments import CHECKOUT
from hydra._internal.utils import get_args_parser
from yaml_keys import CONF

from vae_exp import sync
from vae_exp.configuration.schema import COMMANDS
from vae_exp.dashboard import __main__ as dashboard
from vae_exp.metrics import METRICS, Metric
from vae_exp.reproduce import __main__ as reproduce
from vae_exp.sweep import __main__ as sweep

FOLDER = CHECKOUT / "docs" / "reference"
NOTE = "<!-- Written by `python docs/write_reference.py`{}. -->\n"


def make_pages() -> dict[str, str]:
    """The text of every page by its name."""
    return {
        "config.md": write_config_page(),
        "metrics.md": write_metrics_page(),
        "commands.md": write_commands_page(),
    }


def write_metrics_page() -> str:
    """Every metric of the registry in `vae_exp.metrics`."""
    rows = (
        (name, metric.unit, direction(metric), escape(metric.meaning), logged)
        for name, metric in METRICS.items()
        for logged in [re.sub(r"(evaluator=.*?])", r"`\1`", metric.logged)]
    )
    lines = "".join(f"| `{name}` | {' | '.join(cells)} |\n" for name, *cells in rows)
    return (
        f"{NOTE.format(' from src/vae_exp/metrics.py')}# Metrics\n\n"
        "Keys read `split/name`, such as `val/elbo`. An evaluator reports during training (`val/…`) and from\n"
        "`evaluate` (`test/…`, or the split that is named). How to read the numbers:\n"
        "[What the numbers mean](../explanation/what_the_numbers_mean.md). – marks what makes no run a better\n"
        "one, such as counts, errors and parts of the loss.\n\n"
        f"| name | unit | better | meaning | reported by |\n|---|---|---|---|---|\n{lines}"
    )


def direction(metric: Metric) -> str:
    """Which values of a metric are better."""
    if not metric.is_ranked:
        return "–"
    return "higher" if metric.higher_is_better else "lower"


def write_commands_page() -> str:
    """Every command: the help of those of Hydra, the options of the others."""
    parts = [
        f"{NOTE.format(' from conf/hydra/help and the parsers')}# Commands\n\n"
        "<!-- not run on this page: the help of the commands; a test composes the config of each example -->\n\n"
        "`python -m vae_exp.NAME`, or the console script `vae-NAME`, which can complete words in the shell.\n"
        f"The first {len(COMMANDS)} take overrides, `key=value`, of the [config keys](config.md); "
        "the others take options.\n"
    ]
    for name in COMMANDS:
        template = yaml.safe_load((CONF / "hydra" / "help" / f"{name}.yaml").read_text())["template"]
        text = re.sub(r"\$\{[^}]*\}", "", template).strip()
        parts.append(f"## `{name}`\n\n```text\n{text}\n```\n")
    parts.append(f"## Flags of Hydra\n\nThe commands above take them.\n\n{describe_options(get_args_parser())}")
    for name, parser in make_parsers().items():
        parts.append(f"## `{name}`\n\n{describe_parser(parser)}")
    return "\n".join(parts)


def make_parsers() -> dict[str, argparse.ArgumentParser]:
    """The parsers of the commands that take options of their own."""
    return {
        "sweep": sweep._parser()[0],
        "sync": sync._parser(),
        "dashboard": dashboard._make_parser(),
        "reproduce": reproduce._parser(),
    }


def describe_parser(parser: argparse.ArgumentParser) -> str:
    """What a command does, its options, and those of its subcommands."""
    text = f"{escape(sentence(parser.description or ''))}\n\n"
    subcommands = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not subcommands:
        return text + describe_options(parser)
    for name, subparser in subcommands[0].choices.items():
        text += f"### `{parser.prog.rpartition('.')[2]} {name}`\n\n{describe_parser(subparser)}\n"
    return text.rstrip() + "\n"


def describe_options(parser: argparse.ArgumentParser) -> str:
    """The table of a parser's arguments."""
    rows = []
    for action in parser._actions:
        if action.dest == "help" or action.help == argparse.SUPPRESS:
            continue
        choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.metavar
        choices = choices or action.dest.upper()
        values = "" if action.nargs == 0 else f" {choices}"
        names = ", ".join(action.option_strings) + values if action.option_strings else str(choices)
        several = " (several)" if action.nargs in ("*", "+") else ""
        default = action.default if isinstance(action.default, str | int | float | Path) else None
        shown = f"`{default}`" if default not in (None, False, argparse.SUPPRESS, "") else ""
        meaning = sentence(str(action.help or "").replace(" (%(default)s)", "") % vars(action))
        if action.dest == "shell_completion":
            meaning = meaning.partition(":")[0]  # the rest names this script
        rows.append(f"| `{escape(names.strip())}`{several} | {shown} | {escape(meaning)} |\n")
    return f"| argument | default | meaning |\n|---|---|---|\n{''.join(rows)}"


def sentence(text: str) -> str:
    """A text on one line."""
    return " ".join(text.split())


def escape(text: str) -> str:
    """A text that ends no cell of a table."""
    return text.replace("|", r"\|")


if __name__ == "__main__":
    for name, page in make_pages().items():
        (FOLDER / name).write_text(page)
