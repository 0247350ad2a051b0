"""Keys of the YAML files in `conf/`, each with its value as written and its comment."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

CONF = Path(__file__).parent.parent / "conf"


@dataclass
class Key:
    """A line of YAML: its value as written, and the comment behind it."""

    value: str
    comment: str


def read_keys(path: Path) -> dict[str, Key]:
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


def read_chosen_keys(path: Path) -> dict[str, Key]:
    """The keys of the options that an option chooses for its parts: `- encoder: conv` in its defaults list."""
    chosen = re.findall(r"^  - ([a-z]+): (\w+)$", path.read_text(), re.MULTILINE)
    return {
        f"{part}.{name}": key
        for part, option in chosen
        for name, key in read_keys(path.parent / part / f"{option}.yaml").items()
    }


def head_comment(path: Path) -> str:
    """The comment that a YAML file begins with."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("# "):
            break
        if not re.match(r"# (@package|\$|python -m|torchrun)", line):
            lines.append(line[2:])
    return re.sub(r"(?<=\w: )(python -m .*)$", r"`\1`", " ".join(lines))


def base_option(path: Path) -> Path | None:
    """The option of the same group that an option begins with."""
    names = re.findall(r"^(?:defaults: \[|  - )([a-z]\w*)\]?(?:  #.*)?$", path.read_text(), re.MULTILINE)
    return path.with_name(f"{names[0]}.yaml") if names else None
