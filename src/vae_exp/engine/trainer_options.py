"""The options of the trainer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainerOptions:
    """The options of a trainer, checked and resolved.

    Args:
        epochs: Passes over the training images.
        batch_size: Images per step, of all processes together; the last batch of an epoch may be short.
        reduction: Whether the loss that is differentiated is the `sum` or the `mean` over the batch.
        seed: Order, noise and evaluation draws follow from it.
        monitor: The metric whose lowest value makes a checkpoint the best.
        patience: Epochs without improvement of it after which to stop; None trains all epochs.
        min_delta: How much lower counts as an improvement for `patience`.
        execution: How steps are run: `auto`, `eager`, `graph` or `compile`.
        steps_per_graph: How many steps one replay of a CUDA graph makes where it can.
        precision: Of the matrix products of a step; `fp32`, `tf32` or `bf16`.
        max_grad_norm: The norm that gradients are clipped to; None for no clipping.
        ema_decay: Decay of the moving average of the weights, which is then what is evaluated; None for none.
        warn_posterior_collapse: Whether to warn of a collapsed posterior.
        checkpoint_every_n_epochs: Save `last.pt` after this many epochs; None leaves it to the seconds.
        checkpoint_every_n_seconds: Save `last.pt` after this many seconds; None leaves it to the epochs.
    """

    epochs: int
    batch_size: int
    reduction: str
    seed: int
    monitor: str
    patience: int | None
    min_delta: float
    execution: str
    steps_per_graph: int
    precision: str
    max_grad_norm: float | None
    ema_decay: float | None
    warn_posterior_collapse: bool
    checkpoint_every_n_epochs: int | None
    checkpoint_every_n_seconds: float | None
