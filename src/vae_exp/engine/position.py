"""How far a run has come."""

from dataclasses import dataclass, field


@dataclass
class TrainState:
    """How far a run has come: so many epochs, and so many batches of the next one."""

    epoch: int = 0
    step: int = 0
    batches: int = 0
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    stopped_early: bool = False
    lines: int = 0
