"""Events: what the records of a run say, whichever reader they come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Value = Any  # what JSON can hold: None, bool, int, float, str, and lists of these


@dataclass(frozen=True)
class RunInfo:
    """Identity of a run; segments with the same `run_id` are one run."""

    run_id: str
    name: str = ""
    project: str = ""
    group: str = ""
    job_type: str = ""
    tags: tuple[str, ...] = ()
    notes: str = ""
    started: float = 0.0  # seconds since 1970
    config: Mapping[str, Value] = field(default_factory=dict)  # flat, as far as it was set by then
    host: str = ""  # left out of exports


@dataclass(frozen=True)
class ConfigChange:
    """Keys of the config that were set or removed."""

    update: Mapping[str, Value]
    remove: tuple[str, ...] = ()


@dataclass(frozen=True)
class SummaryChange:
    """Keys of the summary that were set or removed."""

    update: Mapping[str, Value]
    remove: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageReference:
    """An image file that was logged under a key of the history."""

    path: str  # below the run's `files/`, as the record has it: untrusted
    caption: str = ""


@dataclass(frozen=True)
class HistoryRow:
    """Values and images that were logged at a step."""

    step: int
    values: Mapping[str, Value]
    pictures: Mapping[str, tuple[ImageReference, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class ConsoleText:
    """Text that the run printed, with its line ends."""

    text: str
    error: bool = False
    time: float = 0.0  # seconds since 1970


@dataclass(frozen=True)
class MachineState:
    """Load, memory and temperatures of the machine, by W&B's keys."""

    time: float  # seconds since 1970
    values: Mapping[str, float]


@dataclass(frozen=True)
class Environment:
    """Host, user and command line of a run; left out of exports."""

    values: Mapping[str, Value]


@dataclass(frozen=True)
class Alert:
    """A warning that the run sent."""

    title: str
    text: str = ""
    level: str = ""


@dataclass(frozen=True)
class Exit:
    """The end of a run; `code` is 0 for success, `runtime` is in seconds."""

    code: int
    runtime: float = 0.0


Event = (
    RunInfo | ConfigChange | HistoryRow | SummaryChange | ConsoleText | MachineState | Environment | Alert | Exit
)
