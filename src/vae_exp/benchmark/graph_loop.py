"""A hand-written loop to compare with on CUDA: the plain net's step as a CUDA graph, without the engine."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor
from torch.optim import Optimizer

from vae_exp.benchmark.baselines import PlainNet, plain_loss
from vae_exp.engine.cuda_graph import make_capturable

_EAGER_STEPS = 3


class GraphLoop:
    """A training loop that copies each batch to where a captured step reads it, and replays the step.

    It follows "Whole-network capture" in https://docs.pytorch.org/docs/stable/notes/cuda.html: three eager steps
    on the stream of the capture, which are real ones, then a capture whose backward pass allocates the gradients.
    No step waits for its loss.

    Args:
        net: On a CUDA device.
        optimizer: Over its parameters, before its first step.
        batches: Without end, on the device.
        batch: Memory for one of them, `[batch, pixels]`.
    """

    def __init__(self, net: PlainNet, optimizer: Optimizer, batches: Iterator[Tensor], batch: Tensor) -> None:
        make_capturable(optimizer)
        self._net, self._optimizer, self._batches, self._batch = net, optimizer, batches, batch
        self._stream = torch.cuda.Stream(batch.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._eager_steps = 0

    def run_steps(self, count: int) -> int:
        """Train on the next batches; the number of images."""
        current = torch.cuda.current_stream(self._batch.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for x in islice(self._batches, count):
                self._batch.copy_(x)
                self._step()
        current.wait_stream(self._stream)
        return count * len(self._batch)

    def _step(self) -> None:
        if self._eager_steps < _EAGER_STEPS:
            self._eager_steps += 1
            self._train()
            return
        if self._graph is None:
            self._graph = self._capture()
        self._graph.replay()

    def _capture(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        self._optimizer.zero_grad()
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._train()
        return graph

    def _train(self) -> None:
        self._optimizer.zero_grad()  # to None: backward passes write gradients instead of adding to them
        plain_loss(self._batch, *self._net(self._batch)).backward()
        self._optimizer.step()
