"""The processes that train one model together, by torch's DistributedDataParallel."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vae_exp.distributions.sampling import Shard
from vae_exp.engine import torchrun
from vae_exp.errors import DivergedError, Interrupted, UserError

T = TypeVar("T")
_PATIENCE = timedelta(days=7)  # the leader may evaluate for long while the others wait


class DistributedContext:
    """This process alone, or one of several that torchrun has started.

    The batch of a step is the whole team's: each process takes its part of it, in order of rank.

    Args:
        rank: Which process this is, from 0.
        size: How many there are.
        host: What they talk through from host to host, beside whatever their devices do; None where there is
            but one.
    """

    def __init__(self, rank: int = 0, size: int = 1, host: dist.ProcessGroup | None = None) -> None:
        self.rank = rank
        self.size = size
        self._host = host
        self._asked: tuple[Tensor, dist.Work] | None = None

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and tracks."""
        return self.rank == 0

    def bounds(self, total: int) -> tuple[int, int]:
        """First and last-plus-one position of this process in a batch of `total` images."""
        return total * self.rank // self.size, total * (self.rank + 1) // self.size

    def part(self, total: int) -> int:
        """How many images of a batch of `total` this process takes."""
        first, last = self.bounds(total)
        return last - first

    def shard(self, total: int) -> Shard | None:
        """This process's place in a batch of `total` images, for `sharded`; None for a single process."""
        return None if self.size == 1 else (*self.bounds(total), total)

    def own(self, order: Tensor, sizes: list[int]) -> Tensor:
        """This process's part of each batch of an epoch's order."""
        if self.size == 1:
            return order
        whole = order.split(sizes[0] * sizes.count(sizes[0]))  # all batches but the last are of one size
        batches, rest = whole[0].unflatten(0, (-1, sizes[0])), whole[1:]
        parts = [batches[:, slice(*self.bounds(sizes[0]))].flatten()]
        return torch.cat([*parts, *(each[slice(*self.bounds(len(each)))] for each in rest)])

    def sum(self, values: Tensor) -> None:
        """Add up over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)

    def agree(self, flag: int) -> int:
        """The largest flag that any process has raised, the same on all of them; no device waits for it.

        A team hears of a flag one call later, when word of it has long gone round; it is lowered then.
        """
        if self.size == 1:
            return flag
        raised = self._answer()
        if not raised:
            flags = torch.tensor([flag])
            work = dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self._host, async_op=True)
            assert work is not None
            self._asked = flags, work
        return raised

    def _answer(self) -> int:
        """What the call before has brought."""
        if self._asked is None:
            return 0
        flags, work = self._asked
        self._asked = None
        work.wait()
        return int(flags.item())

    def share(self, make: Callable[[], T]) -> T:
        """What the leading process makes, or the error it meets, on every process; the others wait for it."""
        if self.size == 1:
            return make()
        made, error = self._made(make) if self.leads else (None, None)
        box: list[Any] = [made, error]
        dist.broadcast_object_list(box, src=0, group=self._host)
        if box[1] is not None:
            raise error or box[1]
        shared: T = box[0]
        return shared

    def _made(self, make: Callable[[], T]) -> tuple[T | None, Exception | None]:
        """The value, or what prevented it, in a form that can be sent."""
        try:
            return make(), None
        except (UserError, DivergedError, Interrupted) as error:
            return None, error
        except Exception as error:
            return None, RuntimeError(f"{type(error).__name__}: {error}")

    def wrap(self, module: nn.Module, device: torch.device, *arguments: Any) -> nn.Module:
        """A module whose gradients are averaged over the team.

        Args:
            module: Whose first output is differentiated.
            device: Where it is computed.
            arguments: What it may be called with, to see whether all its parameters take part.
        """
        if self.size == 1:
            return module
        return DistributedDataParallel(
            module,
            device_ids=[device] if device.type == "cuda" else None,
            find_unused_parameters=_has_idle_parameters(module, *arguments),
        )

    def disband(self) -> None:
        """Leave the process group, if there is one."""
        with suppress(RuntimeError):  # another process has ended first
            self._answer()
        if dist.is_initialized():
            dist.destroy_process_group()


def _has_idle_parameters(module: nn.Module, *arguments: Any) -> bool:
    """Whether some parameters get no gradient, for which the others must not wait."""
    trained = [each for each in module.parameters() if each.requires_grad]
    was_training = module.training
    module.eval()
    with torch.random.fork_rng(devices=[]):
        output = module(*arguments)[0].sum()
    module.train(was_training)
    return any(each is None for each in torch.autograd.grad(output, trained, allow_unused=True))


def local_device(name: str) -> str:
    """The device of this process of the team: the GPU of its local rank where the name leaves it open.

    A launcher may show each process all GPUs of its machine, or its own alone.
    """
    if torchrun.launched() and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{torchrun.local_rank() % torch.cuda.device_count()}"
    return name


def init_distributed(distributed: str, device: torch.device) -> DistributedContext:
    """The team of this run: `ddp` joins the processes that torchrun has started.

    Raises:
        UserError: if `ddp` was asked for without torchrun, or the other way round.
    """
    size = torchrun.size()
    if distributed == "none":
        if size > 1:
            raise UserError(
                f"{size} processes were started, and trainer.distributed=none would have each train the same run; "
                f"say trainer=ddp."
            )
        return DistributedContext()
    if not torchrun.launched():
        raise UserError(
            "trainer.distributed=ddp needs several processes: "
            "torchrun --nproc-per-node=N -m vae_exp.train trainer=ddp (or say trainer.distributed=none)."
        )
    on_cuda = device.type == "cuda"
    dist.init_process_group("nccl" if on_cuda else "gloo", device_id=device if on_cuda else None)
    host = dist.new_group(backend="gloo", timeout=_PATIENCE)
    assert isinstance(host, dist.ProcessGroup)  # every process is a member
    return DistributedContext(dist.get_rank(), dist.get_world_size(), host)
