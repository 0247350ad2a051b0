"""JSON and YAML files that may come from a stranger: regular, of bounded size, and plain values alone."""

import json
import os
from pathlib import Path
from stat import S_ISREG
from typing import Any

import yaml

from vae_exp.errors import UserError

MAX_BYTES = 2**30
MAX_YAML_BYTES = 1_000_000
_MAX_DEPTH = 100
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_regular(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file; to open a pipe would wait, and a device has no end.

    Raises:
        OSError: if it cannot be read.
        UserError: if it is not a regular file of at most `limit` bytes.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
        status = os.fstat(file.fileno())
        if not S_ISREG(status.st_mode) or status.st_size > limit:
            raise UserError(f"{path} is not a regular file of at most {limit:,} bytes; refused.")
        return file.read()


def read_json(path: Path) -> Any:
    """The value that a JSON file holds.

    Raises:
        OSError: if it cannot be read.
        UserError: if it is not JSON, or not a regular file.
    """
    try:
        return json.loads(read_regular(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}).") from error


def read_yaml(path: Path) -> Any:
    """The tree of plain values that a YAML file holds.

    Aliases are refused: a few lines of them unfold without bound. Deep nesting overflows the stack of PyYAML.

    Raises:
        OSError: if it cannot be read.
        UserError: if it is not YAML, not a regular file of bounded size, holds an alias or is deeply nested.
    """
    text = read_regular(path, MAX_YAML_BYTES)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.AliasEvent):
                raise UserError(f"{path} holds the alias *{event.anchor}, which no stored file has; refused.")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise UserError(f"{path} is nested more than {_MAX_DEPTH} levels deep; refused.")
        return yaml.load(text, Loader=_LOADER)  # noqa: S506 - a safe loader
    except UserError:
        raise
    except Exception as error:  # a YAML constructor stumbles over its values in any way it likes
        raise UserError(f"{path} is not plain YAML: {type(error).__name__}: {error}") from error
