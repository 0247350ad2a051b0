"""The page docs/reference/config.md: every config key, from the schema, the constructors and `conf/`."""

import re
from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import get_type_hints

import yaml
from argument_ranges import find_allowed_by_key
from documented_arguments import Argument, Sources
from yaml_keys import CONF, Key, base_option, head_comment, read_chosen_keys, read_keys

from vae_exp.configuration import schema, value_checks
from vae_exp.data.augmentation import AUGMENTATIONS
from vae_exp.sweep.search.samplers import PRUNERS, SAMPLERS

GROUPS = {
    "trainer": "How long, where and in which portions to train.",
    "model": "The sizes that encoder and decoder share, and the parts.",
    "model/encoder": "Of `model=mlp`, `conv` and `resnet`; the others bring their own.",
    "model/decoder": "Of `model=mlp`, `conv` and `resnet`; the others bring their own.",
    "model/likelihood": "What the outputs of the decoder parameterise.",
    "model/prior": "p(z).",
    "data": "Where images come from and how they are split.",
    "loss": "What is minimised, in nats per image.",
    "loss/schedule": "A scalar of the loss that changes over training: `+loss/schedule@loss.beta=linear`.",
    "optimizer": "A class of torch.",
    "scheduler": "A class of torch that changes the learning rate after each epoch.",
    "evaluator": "A list, `evaluator=[elbo,nll]`: what scores and draws the model.",
    "tracker": "Weights & Biases.",
    "hydra/launcher": "How the jobs of a sweep are started.",
    "hydra/sweeper": "Which jobs a sweep has.",
}
SCHEMAS = {"trainer": schema.TrainerConfig, "model": schema.ModelConfig, "data": schema.DataConfig}
SCHEMAS["tracker"] = schema.TrackerConfig
MAPPING_CHECKS = {"optimizer": value_checks.check_optimizer, "scheduler": value_checks.check_scheduler}
WORDS = {
    "data.augment": AUGMENTATIONS,
    "hydra.sweeper.sampler.name": SAMPLERS,
    "hydra.sweeper.pruner.name": PRUNERS,
}
FIELDS_PASSED_ON = ("data", "model")  # groups whose fields are arguments of the classes that they name
OTHER_TYPES = {"hydra.launcher.ray.init.address": "str or null"}  # of keys that are null and of another package
FOLLOWED = re.compile(r"\$\{((?:data|model)\.[\w.]+)\}")
HEADER = "| key | default | values | meaning |\n|---|---|---|---|\n"


def write_config_page() -> str:
    """The page as Markdown."""
    sources = Sources()
    parts = [_introduction()]
    for command, config in schema.COMMANDS.items():
        parts.append(
            f"## `{command}`\n\n`python -m vae_exp.{command} key=value`\n\n{_command(sources, command, config)}"
        )
    for group, text in GROUPS.items():
        parts.append(f"## `{group}`\n\n{text}\n\n{_group(sources, group)}")
    parts.append(_experiments())
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _introduction() -> str:
    links = ", ".join(f"[`{name}`](#{_anchor(name)})" for name in [*schema.COMMANDS, *GROUPS, "experiment"])
    return (
        "<!-- Written by `python docs/write_reference.py` from the schema, the constructors and conf/. -->\n"
        "# Config keys\n\n"
        "`group=option` chooses an option, `key=value` sets a key. Keys that begin with `+` are not in the YAML:\n"
        "`+key=value` adds them. `null` is no value, `[a,b]` a list. `python -m vae_exp.train --cfg job` prints\n"
        f"the keys of a run as composed.\n\nSections: {links}.\n"
    )


def _command(sources: Sources, command: str, config: type) -> str:
    """The keys of a command that stand in no group."""
    keys = read_keys(CONF / "_shared/stored_run.yaml") if issubclass(config, schema.StoredRunConfig) else {}
    keys |= read_keys(CONF / f"{command}.yaml")
    groups = {group.partition("/")[0] for group in GROUPS}
    rows = dict(
        _schema_rows(sources, config, keys, "", skip=groups - {"data"} if keys.get("data.root") else groups)
    )
    return f"{_chosen(command)}{HEADER}{''.join(rows.values())}\n"


def _chosen(command: str) -> str:
    """The groups of a command, with the option of each that it takes by default."""
    text = (CONF / f"{command}.yaml").read_text()
    chosen = [
        (group, option)
        for group, option in re.findall(r"^  - (\w+): ([^#\n]+?)(?:  #.*)?$", text, re.MULTILINE)
        if group in GROUPS and option != "null"
    ]
    names = [f"[`{group}={option.replace(' ', '')}`](#{_anchor(group)})" for group, option in chosen]
    return (
        f"Groups, with their defaults: {', '.join(names)}. Their keys are in the sections of these names.\n\n"
        if names
        else ""
    )


def _schema_rows(
    sources: Sources, config: type, keys: dict[str, Key], prefix: str, skip: set[str] = frozenset()
) -> Iterator[tuple[str, str]]:
    """The rows of a dataclass of the schema and of those in it, by key."""
    hints = get_type_hints(config)
    users = _users(sources, prefix.rstrip("."))
    for name, field in sources.fields(config).items():
        path = f"{prefix}{name}"
        if name in skip or name == "_target_":
            continue
        if is_dataclass(hints[name]):
            if path != "data":
                yield from _schema_rows(sources, hints[name], keys, f"{path}.")
            else:
                yield from _schema_rows(sources, schema.DataLocationConfig, keys, "data.")
            continue
        written = keys.get(path)
        if written is None and field.kind == "mapping":
            continue
        yield path, _row(path, written, _as_used(field, None, users.get(name)))


@cache
def _users(sources: Sources, group: str) -> dict[str, Argument]:
    """The arguments of constructors that the keys of a group are passed to."""
    if group not in FIELDS_PASSED_ON:
        return {}
    users: dict[str, Argument] = {}
    for path in sorted((CONF / group).glob("**/[!_]*.yaml")):
        users = _users_in(sources, group, path) | users
    return users


@cache
def _users_in(sources: Sources, group: str, path: Path) -> dict[str, Argument]:
    """Those of one option: arguments that its YAML takes from a key of the group, or leaves out under its name."""
    own, users = read_keys(path), {}
    for name, key in own.items():
        parent, _, last = name.rpartition(".")
        arguments = sources.arguments(key.value) if last == "_target_" else {}
        for argument, documented in arguments.items():
            followed = own.get(f"{parent}.{argument}".lstrip("."), Key(f"${{{group}.{argument}}}", "")).value
            if followed.startswith(f"${{{group}."):
                users.setdefault(followed[len(group) + 3 : -1], documented)
    return users


def _as_used(field: Argument, here: Argument | None, elsewhere: Argument | None) -> Argument:
    """A field of the schema with the range of the argument that takes it, where the schema has none.

    Args:
        field: As the schema has it.
        here: The argument in the option that is described, whose type counts.
        elsewhere: The argument in another option.
    """
    user = here or elsewhere
    if user is None or field.allowed:
        return field
    kind = user.kind if here or field.kind in ("", "null") else field.kind
    return replace(field, kind=kind, allowed=user.allowed)


def _group(sources: Sources, group: str) -> str:
    """The options of a group, each with a heading and a table."""
    parts, folder, config = [], CONF / group, SCHEMAS.get(group)
    prefix = f"{group.removeprefix('hydra/').replace('/', '.')}."
    prefix = f"hydra.{prefix}" if group.startswith("hydra/") else prefix
    prefix = "loss.KEY." if group == "loss/schedule" else prefix
    shared: dict[str, Key] = {}
    base = folder / ("default.yaml" if group == "trainer" else "_base.yaml")
    if config:
        shared = {f"{prefix}{name}": key for name, key in read_keys(base).items()}
        rows = "".join(row for _, row in _schema_rows(sources, config, shared, prefix))
        parts.append(f"Every option has these keys:\n\n{HEADER}{rows}")
    for path in sorted(folder.glob("[!_]*.yaml")):
        if path != base:
            parts.append(_option(sources, group, path, prefix))
    return "\n".join(parts)


def _option(sources: Sources, group: str, path: Path, prefix: str) -> str:
    """An option: what its YAML says at its head, and its keys."""
    own = read_keys(path)
    head = [f"### `{group}={path.stem}`", head_comment(path)]
    target = own.get("_target_", own.get(f"{path.stem}._target_", Key("", ""))).value
    if target and group != "model":
        head.append(_class(sources, target))
    base = base_option(path)
    if base:
        head.append(f"As `{group}={base.stem}`, except:" if own else f"The same as `{group}={base.stem}`.")
    rows = "".join(_option_rows(sources, group, path, prefix))
    if rows:
        head.append(f"{HEADER}{rows}".rstrip())
    followers: dict[str, list[str]] = {}
    for name, key in own.items():
        if followed := FOLLOWED.fullmatch(key.value):
            followers.setdefault(followed[1], []).append(f"`{prefix}{name}`")
    if followers:
        lines = [f"{', '.join(names)} ← `{key}`" for key, names in followers.items()]
        head.append(f"Follow other keys: {'; '.join(lines)}.")
    return "\n\n".join(part for part in head if part).rstrip() + "\n"


def _option_rows(sources: Sources, group: str, path: Path, prefix: str) -> Iterator[str]:
    """The rows of an option's own keys, then of the arguments that its YAML leaves out."""
    own, base = read_keys(path), base_option(path)
    inherited, chosen = read_keys(base) if base else {}, read_chosen_keys(path)
    fields_of_group = sources.fields(SCHEMAS[group]) if group in SCHEMAS else {}
    users, users_here = _users(sources, group), _users_in(sources, group, path)
    classes: dict[str, dict[str, Argument]] = {}
    for name, key in own.items():
        parent, _, last = name.rpartition(".")
        target = f"{parent}.".lstrip(".") + "_target_"
        node = own.get(target) or inherited.get(target)
        if last == "_target_" or FOLLOWED.fullmatch(key.value):
            continue
        arguments = classes.setdefault(parent, sources.arguments(node.value) if node else {})
        parts = arguments or sources.arguments(chosen[target].value if target in chosen else "")
        argument = parts.get(last) or Argument(_kind(key.value), "", "")
        if name in fields_of_group:
            argument = _as_used(fields_of_group[name], users_here.get(name), users.get(name))
        elif group in MAPPING_CHECKS:
            argument.allowed = find_allowed_by_key(MAPPING_CHECKS[group], name)
        comment = key.comment or (inherited[name].comment if name in inherited else "")
        if name in fields_of_group and comment:
            argument.meaning = ""
        elif argument.meaning:
            comment = ""
        yield _row(f"{prefix}{name}", Key(key.value, comment), argument)
    for parent, arguments in classes.items():
        for last, argument in arguments.items():
            name = f"{parent}.{last}".lstrip(".")
            if name not in own and argument.default and not base:
                yield _row(f"+{prefix}{name}", None, argument)


def _experiments() -> str:
    """The experiments: what each is for, and what it sets."""
    rows = []
    for path in sorted((CONF / "experiment").glob("[!_]*.yaml")):
        lines = re.findall(r"^# ([^@].*)$", path.read_text(), re.MULTILINE)
        text = next((line for line in lines if not re.match(r"(command|expected|wall time|  )", line)), "")
        old = re.search(r"defaults: \[(\w+)\]  # \w+ is the old name", path.read_text())
        text = f"the old name of `{old[1]}`" if old else text
        sets = re.findall(r"^  - (?:override )?/?([\w/@.]+: .+|[a-z]\w+)$", path.read_text(), re.MULTILINE)
        options = [item.replace(": ", "=") if ":" in item else f"experiment={item}" for item in sets]
        values = [f"{name}={key.value}" for name, key in read_keys(path).items()]
        rows.append(
            f"| `{path.stem}` | {_cell(text)} | {' '.join(f'`{_code(item)}`' for item in options + values)} |\n"
        )
    header = "| name | what | sets |\n|---|---|---|\n"
    return f"## `experiment`\n\nA recipe: `experiment=NAME`.\n\n{header}{''.join(rows)}"


def _class(sources: Sources, target: str) -> str:
    """A line about the class that an option instantiates."""
    if target.startswith("torch."):
        page = f"https://docs.pytorch.org/docs/stable/generated/{target}.html"
        return f"[`{target}`]({page}); its further arguments are set as `+key=value`."
    return f"`{target}`: {sources.summary(target)}" if target != "null" else "The learning rate stays as it is."


def _row(path: str, key: Key | None, argument: Argument) -> str:
    """A row of a table; the comment of the YAML stands behind the docstring, or alone."""
    default = key.value if key else argument.default
    if path in WORDS:
        words = ", ".join(f"`{word}`" for word in WORDS[path])
        argument = replace(argument, allowed=f"a list of {words}" if argument.kind.startswith("list") else words)
    argument = replace(argument, kind=argument.kind or OTHER_TYPES.get(path, ""))
    texts = [argument.meaning, key.comment if key else ""]
    sentences = [_sentence(_plain(text)) for text in texts if text]
    if not sentences:
        raise SystemExit(f"{path} has no meaning: document it in the docstring of its class, or in conf/.")
    default = "null" if default == "None" else default
    shown = "required" if default == "???" else f"`{_code(default)}`" if default else ""
    return f"| `{path}` | {shown} | {_cell(argument.values)} | {_cell('. '.join(sentences))} |\n"


def _plain(text: str) -> str:
    """A text as it reads beside YAML."""
    text = re.sub(r"\bNone\b", "`null`", " ".join(text.split()).rstrip("."))
    return re.sub(r"\b(True|False)\b", lambda match: match[0].lower(), text)


def _sentence(text: str) -> str:
    """A text that begins with a capital, unless its first word is a value."""
    return text[0].upper() + text[1:] if re.match(r"[a-zβ]+ ", text) else text


def _cell(text: str) -> str:
    """Text that neither ends a cell nor reads as HTML."""
    parts = re.split(r"(`[^`]*`)", text.replace("|", r"\|"))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


def _code(text: str) -> str:
    return text.replace("|", r"\|")


def _kind(value: str) -> str:
    """The type of a value that is given to a class of another package."""
    parsed = yaml.safe_load(value)
    if re.fullmatch(r"[\d.]+e-?\d+", value):
        return "float"
    return "" if parsed is None or value.startswith("${") else type(parsed).__name__


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w-]", "", heading)
