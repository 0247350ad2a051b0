"""Arguments of constructors and fields of the schema, with their values and the meanings that docstrings give."""

import re
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from inspect import formatannotation, getdoc, signature
from pathlib import Path
from typing import Any, get_args, get_type_hints

import griffe
from argument_ranges import OWN, find_allowed

CHECKOUT = Path(__file__).parent.parent
UPSTREAM = {
    "hydra_plugins.vae_exp_slurm_launcher.SlurmLauncher": (
        "hydra_plugins.hydra_submitit_launcher.config.SlurmQueueConf"
    ),
}


@dataclass
class Argument:
    """What is documented of an argument of a constructor, or of a field of the schema.

    Args:
        kind: Its type, in the words of YAML.
        default: As in YAML.
        meaning: From the docstring.
        allowed: Its range or choices, as its check has them.
    """

    kind: str
    default: str
    meaning: str
    allowed: str = ""

    @property
    def values(self) -> str:
        """The type and the range, or the choices alone."""
        if not self.allowed or self.kind == "bool":
            return self.kind
        if re.match(r"(a list of )?`", self.allowed):
            null = " or null" if "null" in self.kind else ""
            return self.allowed + (f",{null}" if null and " or " in self.allowed else null)
        each = "each " if self.kind.startswith("list") and re.match("at |greater ", self.allowed) else ""
        return ", ".join(part for part in (self.kind, each + self.allowed) if part)


class Sources:
    """The package's own sources: docstrings are read, checks are followed in the imported modules."""

    def __init__(self) -> None:
        paths = [CHECKOUT / "src"]
        self._packages = {name: griffe.load(name, search_paths=paths, docstring_parser="google") for name in OWN}

    def arguments(self, target: str) -> dict[str, Argument]:
        """The arguments of a class by its dotted name, those of base classes too; of torch's the types alone."""
        package, _, name = target.partition(".")
        if package == "torch" or target in UPSTREAM:
            return _types_elsewhere(UPSTREAM.get(target, target))
        if package not in OWN:
            return {}
        found: dict[str, Argument] = {}
        item, cls = self._packages[package][name], _import(target)
        texts = {}
        for kind in [*reversed(item.mro()), item]:
            texts |= _texts(kind)
        for parameter in item.parameters:
            if parameter.name == "self" or parameter.kind is griffe.ParameterKind.var_keyword:
                continue
            default = "" if parameter.default is None else str(parameter.default).strip("'\"")
            kind, allowed = _plain_type(str(parameter.annotation or "")), find_allowed(cls, parameter.name)
            found[parameter.name] = Argument(kind, default, texts.get(parameter.name, ""), allowed)
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
                _kind_of_field(hints[key.name], key.default),
                _schema_default(key),
                texts.get(key.name, ""),
                _allowed(key.metadata),
            )
            for key in fields(config)
        }

    def summary(self, target: str) -> str:
        """The first line of a class's docstring."""
        package, _, name = target.partition(".")
        docstring = self._packages[package][name].docstring if package in OWN else None
        return str(docstring.value).partition("\n")[0] if docstring else ""


def _import(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)


def _types_elsewhere(target: str) -> dict[str, Argument]:
    """The arguments of a class of another package, of which this documentation knows the types alone."""
    parameters = signature(_import(target)).parameters.values()
    return {
        parameter.name: Argument(_plain_type(formatannotation(parameter.annotation).strip("'")), "", "")
        for parameter in parameters
    }


def _plain_type(annotation: str) -> str:
    """A type annotation in the words of YAML."""
    for python, plain in (
        (r"\bOptional\[(.*)\]", r"\1 | None"),
        (r" \| (torch\.)?Tensor", ""),
        (r"\b(List|Iterable)\b", "list"),
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


def _kind_of_field(hint: Any, default: Any) -> str:
    """The type of a field of the schema."""
    if hint is Any:
        return "null" if default is None else ""
    name = str(hint) if get_args(hint) else hint.__name__
    return _plain_type(name.replace("typing.", "").replace("NoneType", "None"))


def _allowed(metadata: Any) -> str:
    """The range or the choices that the check of a field of the schema allows, from its docstring."""
    if "check" not in metadata:
        return ""
    text, limits = (getdoc(metadata["check"]) or "").rstrip("."), metadata["limits"]
    choices = ", ".join(f"`{str(limit).lower() if isinstance(limit, bool) else limit}`" for limit in limits)
    return (text[:1].lower() + text[1:]).format(*limits, choices=choices)


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
