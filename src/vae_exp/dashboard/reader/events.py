"""What a run's records say, whichever reader they came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Value = Any  # what JSON can hold: None, bool, int, float, str, and lists of these


@dataclass(frozen=True)
class RunInfo:
    """Who a run is.

    Args:
        run_id: W&B's; segments with the same one are one run.
        name: The name that is shown.
        project: W&B project.
        group: Runs of one sweep share it.
        job_type: What it is within its group.
        tags: W&B tags.
        notes: The user's words.
        started: Seconds since 1970.
        config: Its config as far as it was known then, flattened.
        host: The machine: left out of what is exported.
    """

    run_id: str
    name: str = ""
    project: str = ""
    group: str = ""
    job_type: str = ""
    tags: tuple[str, ...] = ()
    notes: str = ""
    started: float = 0.0
    config: Mapping[str, Value] = field(default_factory=dict)
    host: str = ""


@dataclass(frozen=True)
class ConfigChange:
    """Keys of the config that were set, or taken away."""

    update: Mapping[str, Value]
    remove: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """An image file that belongs to a key of the history.

    Args:
        path: Below the run's `files/`, as the record has it: not to be trusted.
        caption: What stands beside it.
    """

    path: str
    caption: str = ""


@dataclass(frozen=True)
class HistoryRow:
    """What was logged at a step.

    Args:
        step: The step.
        values: Numbers, texts and lists by key.
        pictures: Image files by key.
    """

    step: int
    values: Mapping[str, Value]
    pictures: Mapping[str, tuple[Picture, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class SummaryChange:
    """Keys of the summary that were set, or taken away."""

    update: Mapping[str, Value]
    remove: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConsoleText:
    """What the run has printed.

    Args:
        text: With its line ends.
        error: Whether it went to the standard error output.
        time: Seconds since 1970.
    """

    text: str
    error: bool = False
    time: float = 0.0


@dataclass(frozen=True)
class MachineState:
    """Load, memory, temperatures.

    Args:
        time: Seconds since 1970.
        values: By W&B's key.
    """

    time: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class Environment:
    """Where the run was started, and how: left out of what is exported."""

    values: Mapping[str, Value]


@dataclass(frozen=True)
class Alert:
    """Something that the run has drawn attention to."""

    title: str
    text: str = ""
    level: str = ""


@dataclass(frozen=True)
class Exit:
    """The run has ended.

    Args:
        code: 0 if well.
        runtime: Seconds.
    """

    code: int
    runtime: float = 0.0


Event = (
    RunInfo | ConfigChange | HistoryRow | SummaryChange | ConsoleText | MachineState | Environment | Alert | Exit
)
