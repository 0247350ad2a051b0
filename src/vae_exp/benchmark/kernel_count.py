"""How many kernels a training step launches, which is what a small net costs on a GPU."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

_WITHOUT_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_local_scalar_dense"}


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        if func.namespace == "aten" and not func.is_view and name not in _WITHOUT_KERNEL:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def launched_kernels(step: Callable[[], object]) -> list[str]:
    """The dispatched operations of a step that launch a kernel, by name and in order; views launch none.

    An operation counts once, also where torch computes it in several kernels. What a compiler has fused and what a
    CUDA graph replays is not dispatched, and therefore not counted.

    Args:
        step: Runs one step.
    """
    recorder = _Recorder()
    with recorder:
        step()
    return recorder.names
