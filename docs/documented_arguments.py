"""Arguments of constructors and fields of the schema, with the values and meanings that docstrings give."""

import re
from dataclasses import dataclass, fields, is_dataclass
from inspect import getdoc
from pathlib import Path
from typing import Any, get_args, get_type_hints

import griffe

CHECKOUT = Path(__file__).parent.parent
OWN = ("vae_exp", "hydra_plugins")


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
    text = (getdoc(check) or "").rstrip(".")
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
