"""A training step captured as a CUDA graph: the host launches one graph instead of a hundred kernels."""

import logging
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, Optimizer, RMSprop

from vae_exp.engine.train_step import TrainStep

_log = logging.getLogger(__name__)
_WARM_UP_STEPS = 3
_REGISTERS_GENERATORS = torch.__version__ >= "2.14"  # by itself, at the first draw in a capture
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_OPAQUE = (nn.Module, Tensor, torch.Generator, type, FunctionType, MethodType, ModuleType)


class _Capture(NamedTuple):
    graph: torch.cuda.CUDAGraph
    sums: Tensor
    options: tuple[Any, ...]
    gradients: list[Tensor | None]


class CUDAGraphStep:
    """Runs a training step eagerly a few times, then captures it and replays the graph.

    There is a graph for each number of steps, and a new one whenever an option of the optimizer
    changes, because a graph holds them as constants; the learning rate is read from the device where the optimizer
    can, in warm-up steps too, so that all steps of a run round alike. The warm-up steps are real steps of the
    training: a capture runs nothing, so no state has to be restored.

    A model that waits for the device, draws from a generator that the capture does not know, or changes state on
    the host in its last warm-up step (an attribute, a random state) continues eagerly, and a warning says why.
    State on the host that changes more rarely than every step is not noticed: the graph replays its old value.

    Args:
        step: The step to capture.
        device: A CUDA device, with its index.
        batch_size: Of the steps to capture; those on other batches, such as a short last one, are run eagerly.
    """

    def __init__(self, step: TrainStep, device: torch.device, batch_size: int) -> None:
        self.fallback: str | None = None
        self._step = step
        self._device = device
        self._batch_size = batch_size
        self._stream = _capture_stream(device)
        self._captures: dict[int, _Capture] = {}  # by number of steps
        self._last: _Capture | None = None
        self._warm_ups = 0
        self._rates: _DeviceLearningRates | None = None

    @contextmanager
    def on_capture_stream(self) -> Iterator[None]:
        """Order all device work of a block on the stream of the captures."""
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            try:
                with torch.cuda.stream(self._stream):
                    yield
            finally:
                torch.cuda.current_stream().wait_stream(self._stream)

    def __call__(self, size: int, steps: int = 1) -> Tensor:
        """Steps on as many batches of `size` images each; the sums of the terms of the last, `[3]`, in nats.

        Several are one replay of a graph that contains them; until the warm-ups are made they are run one by one.
        """
        # Not earlier: a checkpoint may replace the optimizer's groups before the first step.
        if self._rates is None:
            make_capturable(self._step.optimizer)
            self._rates = _DeviceLearningRates(self._step.optimizer, self._device)
        self._rates.follow()
        if self.fallback is not None or size != self._batch_size:
            return self._eager(size, self._rates, steps)
        if self._warm_ups < _WARM_UP_STEPS:
            return self._warm_up(self._rates) if steps == 1 else [self(size) for _ in range(steps)][-1]
        options = _constant_options(self._step.optimizer, self._rates)
        capture = self._captures.get(steps)
        if capture is None or capture.options != options:
            capture = self._capture(self._rates, options, steps)
        if capture is None:
            return self._eager(size, self._rates, steps)
        self._replay(capture)
        return capture.sums

    def _replay(self, capture: _Capture) -> None:
        capture.graph.replay()
        if capture is not self._last:  # another step left its gradients elsewhere
            self._last = capture
            for parameter, gradient in zip(self._step.parameters, capture.gradients, strict=True):
                parameter.grad = gradient

    def _eager(self, size: int, rates: "_DeviceLearningRates", steps: int = 1) -> Tensor:
        self._last = None
        with rates.in_groups():
            return [self._step(size) for _ in range(steps)][-1]

    def _warm_up(self, rates: "_DeviceLearningRates") -> Tensor:
        self._warm_ups += 1
        if self._warm_ups < _WARM_UP_STEPS:
            return self._eager(self._batch_size, rates)
        before = host_state(self._step.model_with_loss, self._step.optimizer)
        sums = self._eager(self._batch_size, rates)
        difference = first_difference(before, host_state(self._step.model_with_loss, self._step.optimizer))
        if difference is not None:
            self._fall_back_to_eager(f"{difference} changes from step to step, which a graph would not see")
        return sums

    def _capture(self, rates: "_DeviceLearningRates", options: tuple[Any, ...], steps: int) -> _Capture | None:
        self._captures.pop(steps, None)
        self._last = None
        generator_state = self._step.generator.get_state().clone()
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        try:
            if not _REGISTERS_GENERATORS:
                graph.register_generator_state(self._step.generator)
            self._step.optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
                sums = self._eager(self._batch_size, rates, steps)
        except Exception as error:  # whatever a model does that cannot be captured
            self._clean_up_failed_capture(graph, pool, generator_state)
            if isinstance(_root_cause(error), torch.OutOfMemoryError):
                raise _root_cause(error) from None
            self._fall_back_to_eager(_first_line(_root_cause(error)))  # a local name would keep the graph alive
            return None
        gradients = [parameter.grad for parameter in self._step.parameters]
        self._captures[steps] = _Capture(graph, sums, options, gradients)
        return self._captures[steps]

    def _fall_back_to_eager(self, reason: str) -> None:
        self.fallback = reason
        self._captures.clear()
        _log.warning(
            "Steps cannot be captured as a CUDA graph (%s); training continues with eager steps, which are "
            "slower. trainer.execution=eager does not try.",
            reason,
        )

    def _clean_up_failed_capture(
        self, graph: torch.cuda.CUDAGraph, pool: tuple[int, int], generator_state: Tensor
    ) -> None:
        """Before 2.14, torch leaves allocator and generators in the capture."""
        torch.cuda.synchronize(self._device)
        graph.reset()
        if not _REGISTERS_GENERATORS:
            index = self._device.index
            with suppress(RuntimeError):  # torch 2.13 has ended the first of the two
                torch._C._cuda_endAllocateToPool(index, pool)
                torch._C._cuda_releasePool(index, pool)
            default = torch.cuda.default_generators[index]
            default.graphsafe_set_state(default.clone_state())
        self._step.generator = torch.Generator(self._device)
        self._step.generator.set_state(generator_state)


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures of a process: cuBLAS keeps a workspace for each stream it is used on."""
    return torch.cuda.Stream(device)


def _root_cause(error: BaseException) -> BaseException:
    """The first error: leaving a broken capture raises another on top."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _first_line(error: BaseException) -> str:
    message = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {message}"


def make_capturable(optimizer: Optimizer) -> None:
    """Make optimizers that count their steps count them on the device."""
    optimizer._warned_capturable_if_run_uncaptured = True  # the warm-ups would warn
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = True
    for state in optimizer.state.values():
        step = state.get("step")
        if isinstance(step, Tensor):
            state["step"] = step.to(next(iter(optimizer.param_groups[0]["params"])).device)


class _DeviceLearningRates:
    """Learning rates in float32 that graphs read from the device, so that a schedule needs no new capture.

    Outside of steps the optimizer's groups hold numbers: schedulers compute recursively in double precision.
    """

    def __init__(self, optimizer: Optimizer, device: torch.device) -> None:
        self._groups = [group for group in optimizer.param_groups if _reads_tensor(optimizer, group)]
        self._numbers = [group["lr"] for group in self._groups]
        self._tensors = [torch.tensor(number, device=device) for number in self._numbers]

    def covers(self, group: dict[str, Any]) -> bool:
        """Whether the group's learning rate is one of them."""
        return any(group is covered for covered in self._groups)

    def follow(self) -> None:
        """Copy the numbers that a scheduler has changed; nothing waits for the device."""
        for index, group in enumerate(self._groups):
            if group["lr"] != self._numbers[index]:
                self._numbers[index] = group["lr"]
                self._tensors[index].fill_(group["lr"])

    @contextmanager
    def in_groups(self) -> Iterator[None]:
        """Put the tensors into the groups for a block in which a step runs or is captured."""
        for group, tensor in zip(self._groups, self._tensors, strict=True):
            group["lr"] = tensor
        try:
            yield
        finally:
            for group, number in zip(self._groups, self._numbers, strict=True):
                group["lr"] = number


def _reads_tensor(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    """Whether the group's kernels read a learning rate from the device without a wait of the host."""
    if not isinstance(group["lr"], float):
        return False
    if isinstance(optimizer, SGD | Adagrad):
        return bool(group.get("fused"))
    if isinstance(optimizer, RMSprop):  # its foreach kernels, which are torch's default on CUDA
        return group.get("foreach") is not False
    return isinstance(optimizer, Adam)  # AdamW is one


def _constant_options(optimizer: Optimizer, rates: _DeviceLearningRates) -> tuple[Any, ...]:
    """The options of the optimizer that a graph holds as constants."""
    return tuple(
        value
        for group in optimizer.param_groups
        for name, value in group.items()
        if name != "params" and not isinstance(value, Tensor) and not (name == "lr" and rates.covers(group))
    )


def host_state(module: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Plain values on the host that the code of a step may change, by name, in a form that can be compared.

    They are the attributes of the modules and of objects that `module` holds such as the loss, the options and the
    state of the optimizer, all with the plain values one level inside, and the random states of the process.
    """
    module = getattr(module, "_orig_mod", module)  # not what the compiler adds
    held = {name: value for name, value in vars(module).items() if hasattr(value, "__dict__")}
    torchs = vars(nn.Module())
    values: dict[str, Any] = {
        f"{path}.{name}".lstrip("."): value
        for path, owner in {**held, **dict(module.named_modules())}.items()
        if not isinstance(owner, FunctionType | MethodType)
        for name, value in vars(owner).items()
        if name not in torchs
    }
    values |= {f"optimizer.param_groups[{index}]": group for index, group in enumerate(optimizer.param_groups)}
    values |= {f"optimizer.state[{index}]": state for index, state in enumerate(optimizer.state.values())}
    kind, keys, position, *rest = np.random.get_state(legacy=True)
    return {
        **{name: text for path, value in values.items() for name, text in _plain_values(path, value)},
        "the random state of Python": random.getstate(),
        "the random state of numpy": (kind, np.asarray(keys).tobytes(), position, rest),
        "the random state of torch on the CPU": torch.get_rng_state().numpy().tobytes(),
    }


def _plain_values(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """A plain value, or those that a container or an object holds directly, by name."""
    entries: Iterable[tuple[str, Any]] = []
    if isinstance(value, _PLAIN):
        yield name, repr(value)  # NaN equals itself then
    elif isinstance(value, Mapping):
        entries = [(f"[{key!r}]", entry) for key, entry in value.items()]
    elif isinstance(value, list | tuple):
        entries = [(f"[{index}]", entry) for index, entry in enumerate(value)]
    elif not isinstance(value, _OPAQUE) and hasattr(value, "__dict__"):
        entries = [(f".{key}", entry) for key, entry in vars(value).items()]
    if isinstance(value, Mapping | list | tuple):
        yield f"the length of {name}", str(len(value))
    for key, entry in entries:
        if isinstance(entry, _PLAIN):
            yield f"{name}{key}", repr(entry)


def first_difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """The name of a value that differs between two host states; None if none does."""
    absent = object()
    names = [*before, *(name for name in after if name not in before)]
    return next((name for name in names if before.get(name, absent) != after.get(name, absent)), None)
