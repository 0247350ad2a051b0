"""The progress of a training run."""

from dataclasses import dataclass, field


@dataclass
class TrainState:
    """The progress of a run: whole epochs, and batches of the next one.

    `metrics` are those of the last epoch, `metrics_rows` counts the epochs that trackers have logged,
    `epoch_seconds` those that the batches of the next epoch have taken.
    """

    epoch: int = 0
    global_step: int = 0
    batch_in_epoch: int = 0
    train_seconds: float = 0.0
    epoch_seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    metrics_rows: int = 0
