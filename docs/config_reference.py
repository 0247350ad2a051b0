"""The page docs/reference/config.md: every config key, from the schema, the constructors and `conf/`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from inspect import getdoc
from pathlib import Path
from typing import Any, get_args, get_type_hints

import griffe
import yaml

from vae_exp.configuration import schema

CHECKOUT = Path(__file__).parent.parent
CONF = CHECKOUT / "conf"
OWN = ("vae_exp", "hydra_plugins")
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
FOLLOWED = re.compile(r"\$\{((?:data|model)\.[\w.]+)\}")
HEADER = "| key | default | values | meaning |\n|---|---|---|---|\n"


@dataclass
class Key:
    """A line of YAML: its value as written, and the comment behind it."""

    value: str
    comment: str


@dataclass
class Argument:
    """What is documented of an argument of a constructor, or of a field of the schema."""

    values: str
    default: str
    meaning: str


class Sources:
    """The package's own sources, which are read and not imported."""

    def __init__(self) -> None:
        paths = [CHECKOUT / "src"]
        self._packages = {name: griffe.load(name, search_paths=paths, docstring_parser="google") for name in OWN}

    def arguments(self, target: str) -> dict[str, Argument]:
        """The arguments of a class of ours by its dotted name, those of base classes too."""
        package, _, name = target.partition(".")
        if package not in OWN:
            return {}
        found: dict[str, Argument] = {}
        item = self._packages[package][name]
        texts = {}
        for kind in [*reversed(item.mro()), item]:
            texts |= _texts(kind)
        for parameter in item.parameters:
            if parameter.name == "self" or parameter.kind is griffe.ParameterKind.var_keyword:
                continue
            default = "" if parameter.default is None else str(parameter.default).strip("'\"")
            values = _plain_type(str(parameter.annotation or ""))
            found[parameter.name] = Argument(values, default, texts.get(parameter.name, ""))
        if any(parameter.kind is griffe.ParameterKind.var_keyword for parameter in item.parameters):
            for base in item.mro():
                found = self.arguments(base.path) | found
        return found

    def fields(self, config: type) -> dict[str, Argument]:
        """The fields of a dataclass of the schema, with the values that it allows."""
        hints, texts = get_type_hints(config), {}
        for kind in reversed(config.__mro__):
            if is_dataclass(kind):
                texts |= _texts(self._packages["vae_exp"][f"configuration.schema.{kind.__name__}"])
        return {
            key.name: Argument(
                _allowed(hints[key.name], key.metadata), _schema_default(key), texts.get(key.name, "")
            )
            for key in fields(config)
        }

    def summary(self, target: str) -> str:
        """The first line of a class's docstring."""
        package, _, name = target.partition(".")
        docstring = self._packages[package][name].docstring if package in OWN else None
        return str(docstring.value).partition("\n")[0] if docstring else ""


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
    keys = _read(CONF / "_shared/stored_run.yaml") if issubclass(config, schema.StoredRunConfig) else {}
    keys |= _read(CONF / f"{command}.yaml")
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
        if written is None and field.values == "mapping":
            continue
        yield path, _row(path, written, field)


def _group(sources: Sources, group: str) -> str:
    """The options of a group, each with a heading and a table."""
    parts, folder, config = [], CONF / group, SCHEMAS.get(group)
    prefix = f"{group.removeprefix('hydra/').replace('/', '.')}."
    prefix = f"hydra.{prefix}" if group.startswith("hydra/") else prefix
    prefix = "loss.KEY." if group == "loss/schedule" else prefix
    shared: dict[str, Key] = {}
    base = folder / ("default.yaml" if group == "trainer" else "_base.yaml")
    if config:
        shared = {f"{prefix}{name}": key for name, key in _read(base).items()}
        rows = "".join(row for _, row in _schema_rows(sources, config, shared, prefix))
        parts.append(f"Every option has these keys:\n\n{HEADER}{rows}")
    for path in sorted(folder.glob("[!_]*.yaml")):
        if path != base:
            parts.append(_option(sources, group, path, prefix))
    return "\n".join(parts)


def _option(sources: Sources, group: str, path: Path, prefix: str) -> str:
    """An option: what its YAML says at its head, and its keys."""
    own = _read(path)
    head = [f"### `{group}={path.stem}`", _head(path)]
    target = own.get("_target_", own.get(f"{path.stem}._target_", Key("", ""))).value
    if target and group != "model":
        head.append(_class(sources, target))
    base = _base(path)
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
    own, base = _read(path), _base(path)
    inherited = _read(base) if base else {}
    fields_of_group = sources.fields(SCHEMAS[group]) if group in SCHEMAS else {}
    classes: dict[str, dict[str, Argument]] = {}
    for name, key in own.items():
        parent, _, last = name.rpartition(".")
        target = f"{parent}.".lstrip(".") + "_target_"
        node = own.get(target) or inherited.get(target)
        if last == "_target_" or FOLLOWED.fullmatch(key.value):
            continue
        arguments = classes.setdefault(parent, sources.arguments(node.value) if node else {})
        argument = fields_of_group.get(name) or arguments.get(last) or Argument(_kind(key.value), "", "")
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


def _base(path: Path) -> Path | None:
    """The option of the same group that an option begins with."""
    names = re.findall(r"^(?:defaults: \[|  - )([a-z]\w*)\]?(?:  #.*)?$", path.read_text(), re.MULTILINE)
    return path.with_name(f"{names[0]}.yaml") if names else None


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
        values = [f"{name}={key.value}" for name, key in _read(path).items()]
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


def _head(path: Path) -> str:
    """The comment that a YAML file begins with."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("# "):
            break
        if not re.match(r"# (@package|\$|python -m|torchrun)", line):
            lines.append(line[2:])
    return re.sub(r"(?<=\w: )(python -m .*)$", r"`\1`", " ".join(lines))


def _read(path: Path) -> dict[str, Key]:
    """The keys of a YAML file by their dotted path, without its defaults list."""
    if not path.exists():
        return {}
    text = path.read_text()
    lines, keys = text.splitlines(), {}

    def walk(node: yaml.Node, prefix: str) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for name, value in node.value:
            key = f"{prefix}{name.value}"
            if key == "defaults" or (key.startswith("hydra") and path.parent == CONF):
                continue
            if isinstance(value, yaml.MappingNode) and value.value:
                walk(value, f"{key}.")
                continue
            written = text[value.start_mark.index : value.end_mark.index].strip()
            comment = re.search(r"\s# (.*)$", lines[name.start_mark.line])
            keys[key] = Key(re.sub(r"\s*\n\s*", " ", written), comment[1] if comment else "")

    walk(yaml.compose(text), "")
    return keys


def _row(path: str, key: Key | None, argument: Argument) -> str:
    """A row of a table; the comment of the YAML stands behind the docstring, or alone."""
    default = key.value if key else argument.default
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


def _plain_type(annotation: str) -> str:
    """A type annotation in the words of YAML."""
    for python, plain in (
        (r"\bNone\b", "null"),
        (r"\bAny\b", ""),
        (r"\bSequence\b", "list"),
        (r"\bMapping\[.*\]", "mapping"),
        (r"\bdict\[.*\]", "mapping"),
        (r"\bDictConfig\b", "mapping"),
        (r"\bSchedule\b", "schedule"),
        (r" \| ", " or "),
    ):
        annotation = re.sub(python, plain, annotation)
    return annotation


def _allowed(hint: Any, metadata: Any) -> str:
    """The type of a field of the schema, and the range or the choices that its check allows."""
    name = str(hint) if get_args(hint) else hint.__name__
    kind = _plain_type(name.replace("typing.", "").replace("NoneType", "None"))
    check = metadata.get("check")
    if check is None or kind == "mapping":
        return kind
    limits = metadata["limits"]
    choices = ", ".join(f"`{str(limit).lower() if isinstance(limit, bool) else limit}`" for limit in limits)
    text = (getdoc(check) or "").rstrip(".") if check.__name__.startswith("_") else ""
    allowed = (text[:1].lower() + text[1:]).format(*limits, choices=choices)
    if "{choices}" in (getdoc(check) or ""):
        kind = "null" if "null" in kind else ""
        return " or ".join(part for part in (allowed, kind) if part)
    return ", ".join(part for part in (kind, allowed) if part)


def _schema_default(key: Any) -> str:
    if isinstance(key.default, str | bool | int | float) and key.default != "???":
        return str(key.default).lower() if isinstance(key.default, bool) else str(key.default)
    if key.default is None:
        return "null"
    return "[]" if key.default_factory is list else ""


def _texts(item: Any) -> dict[str, str]:
    """The Args section of a class."""
    sections = item.docstring.parsed if item.docstring else []
    return {
        argument.name: argument.description
        for section in sections
        if section.kind is griffe.DocstringSectionKind.parameters
        for argument in section.value
    }


def _kind(value: str) -> str:
    """The type of a value that is given to a class of another package."""
    parsed = yaml.safe_load(value)
    if re.fullmatch(r"[\d.]+e-?\d+", value):
        return "float"
    return "" if parsed is None or value.startswith("${") else type(parsed).__name__


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w-]", "", heading)
