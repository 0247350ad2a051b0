"""Processes that train one model together, by torch's DistributedDataParallel."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as torch_dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vae_exp.distributions.sampling import Shard
from vae_exp.engine import torchrun
from vae_exp.errors import DivergedError, Interrupted, UserError

T = TypeVar("T")
_TIMEOUT = timedelta(days=7)  # the main process may evaluate for long while the others wait


class DistributedContext:
    """This process alone, or one of several that torchrun has started.

    A batch is shared by all processes: each takes its slice of it, in order of rank.

    Args:
        rank: The rank of this process, from 0.
        world_size: The number of processes.
        host_group: A process group of the hosts, beside that of the devices; None for a single process.
    """

    def __init__(
        self, rank: int = 0, world_size: int = 1, host_group: torch_dist.ProcessGroup | None = None
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self._host_group = host_group
        self._pending_flag: tuple[Tensor, torch_dist.Work] | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and tracks."""
        return self.rank == 0

    def local_slice(self, total: int) -> tuple[int, int]:
        """First and last-plus-one index of this process in a batch of `total` images."""
        return total * self.rank // self.world_size, total * (self.rank + 1) // self.world_size

    def local_batch_size(self, total: int) -> int:
        """How many images of a batch of `total` this process takes."""
        first, last = self.local_slice(total)
        return last - first

    def noise_shard(self, total: int) -> Shard | None:
        """The slice of this process in a batch of `total` images, for `sharded`; None for a single process."""
        return None if self.world_size == 1 else (*self.local_slice(total), total)

    def local_indices(self, order: Tensor, sizes: list[int]) -> Tensor:
        """The slice of this process of each batch of an epoch's order."""
        if self.world_size == 1:
            return order
        whole = order.split(sizes[0] * sizes.count(sizes[0]))  # all batches but the last are of one size
        batches, rest = whole[0].unflatten(0, (-1, sizes[0])), whole[1:]
        parts = [batches[:, slice(*self.local_slice(sizes[0]))].flatten()]
        return torch.cat([*parts, *(batch[slice(*self.local_slice(len(batch)))] for batch in rest)])

    def all_reduce_sum(self, values: Tensor) -> None:
        """Sum over all processes, in place."""
        if self.world_size > 1:
            torch_dist.all_reduce(values)

    def any_rank_flag(self, flag: int) -> int:
        """The largest flag that any process has raised, the same on all of them; no device waits for it.

        Several processes receive a flag one call later, when the exchange has long finished; it is lowered then.
        """
        if self.world_size == 1:
            return flag
        raised = self._receive_flag()
        if not raised:
            flags = torch.tensor([flag])
            work = torch_dist.all_reduce(flags, op=torch_dist.ReduceOp.MAX, group=self._host_group, async_op=True)
            assert work is not None
            self._pending_flag = flags, work
        return raised

    def _receive_flag(self) -> int:
        """The largest flag of the call before."""
        if self._pending_flag is None:
            return 0
        flags, work = self._pending_flag
        self._pending_flag = None
        work.wait()
        return int(flags.item())

    def run_on_main_and_broadcast(self, function: Callable[[], T]) -> T:
        """The result of the main process, or the error it raises, on every process; the others wait for it."""
        if self.world_size == 1:
            return function()
        result, error = _result_or_error(function) if self.is_main else (None, None)
        box: list[Any] = [result, error]
        torch_dist.broadcast_object_list(box, src=0, group=self._host_group)
        if box[1] is not None:
            raise error or box[1]
        shared: T = box[0]
        return shared

    def wrap_ddp(self, module: nn.Module, device: torch.device, *arguments: Any) -> nn.Module:
        """A module whose gradients are averaged over the processes.

        Args:
            module: Its first output is differentiated.
            device: The device of the module.
            arguments: Valid arguments of a call, to find out whether all parameters receive a gradient.
        """
        if self.world_size == 1:
            return module
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_hook(_with_plain_strides)
        return DistributedDataParallel(
            module,
            device_ids=[device] if device.type == "cuda" else None,
            find_unused_parameters=_has_unused_parameters(module, *arguments),
        )

    def shutdown(self) -> None:
        """Leave the process group, if there is one."""
        with suppress(RuntimeError):  # another process has ended first
            self._receive_flag()
        if torch_dist.is_initialized():
            torch_dist.destroy_process_group()


def _result_or_error(function: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """The result, or the error in a form that can be sent."""
    try:
        return function(), None
    except (UserError, DivergedError, Interrupted) as error:
        return None, error
    except Exception as error:
        return None, RuntimeError(f"{type(error).__name__}: {error}")


def _with_plain_strides(gradient: Tensor) -> Tensor:
    """The same memory with the strides that DDP expects: an axis of one element, as in 1×1 kernels, has any."""
    return gradient.flatten().view_as(gradient) if gradient.is_contiguous() else gradient


def _has_unused_parameters(module: nn.Module, *arguments: Any) -> bool:
    """Whether some parameters receive no gradient, for which DDP must not wait."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    was_training = module.training
    module.eval()
    with torch.random.fork_rng(devices=[]):
        output = module(*arguments)[0].sum()
    module.train(was_training)
    return any(gradient is None for gradient in torch.autograd.grad(output, trained, allow_unused=True))


def local_rank_device(name: str) -> str:
    """The name of this process's device: the GPU of its local rank where `name` leaves it open.

    A launcher may show each process all GPUs of its machine, or its own alone.
    """
    if torchrun.is_launched() and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{torchrun.local_rank() % torch.cuda.device_count()}"
    return name


def init_distributed(strategy: str, device: torch.device) -> DistributedContext:
    """The processes of this run: `ddp` joins those that torchrun has started.

    Raises:
        UserError: if `ddp` was asked for without torchrun, or the other way round.
    """
    world_size = torchrun.world_size()
    if strategy == "none":
        if world_size > 1:
            raise UserError(
                f"{world_size} processes were started, and trainer.strategy=none would have each train the "
                f"same run; use trainer=ddp."
            )
        return DistributedContext()
    if not torchrun.is_launched():
        raise UserError(
            "trainer.strategy=ddp needs several processes: "
            "torchrun --nproc-per-node=N -m vae_exp.train trainer=ddp (or trainer.strategy=none)."
        )
    on_cuda = device.type == "cuda"
    torch_dist.init_process_group("nccl" if on_cuda else "gloo", device_id=device if on_cuda else None)
    host_group = torch_dist.new_group(backend="gloo", timeout=_TIMEOUT)
    assert isinstance(host_group, torch_dist.ProcessGroup)  # every process is a member
    return DistributedContext(torch_dist.get_rank(), torch_dist.get_world_size(), host_group)
