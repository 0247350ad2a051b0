"""Taking over the state of an optimiser from a checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

_KERNELS = ("capturable", "foreach", "fused")


def load_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any], *, keep_options: bool) -> None:
    """Take over an optimiser's state, but not how its kernels are run: that is this device's matter.

    Args:
        optimizer: Over the same parameters.
        state: What its `state_dict` gave.
        keep_options: Whether it keeps its own options too, such as the learning rate.

    Raises:
        ValueError: if the state is of other parameters.
    """
    kept = [
        {name: group[name] for name in group if name in _KERNELS or (keep_options and name != "params")}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(dict(state))
    for group, own in zip(optimizer.param_groups, kept, strict=True):
        group.update(own)
        if group.get("fused"):
            _require_shapes(optimizer, group["params"])
    optimizer._opt_called = True  # type: ignore[attr-defined]  # or a scheduler warns


def _require_shapes(optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
    """Fused kernels trust the shapes of their state, and read past its end where it is too short."""
    for parameter in parameters:
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                raise ValueError(
                    f"the optimiser's {name} is {list(value.shape)} for a weight of {list(parameter.shape)}"
                )
