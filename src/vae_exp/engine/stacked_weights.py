"""The weights of several models, and their optimizers' state, as one set of tensors padded with zeros."""

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class StackedWeights:
    """The parameters of models that differ in their sizes alone, each as one tensor `[models, *largest shape]`.

    Args:
        template: A model of the largest sizes.
        models: Those whose weights are stacked; zeros stand for None.
    """

    def __init__(self, template: nn.Module, models: Sequence[nn.Module | None]) -> None:
        parameters = dict(template.named_parameters())
        self._layouts = {name: _layout(template, name) for name in parameters}
        self._models = [None if model is None else dict(model.named_parameters()) for model in models]
        self.values = {name: value.new_zeros(len(models), *value.shape) for name, value in parameters.items()}
        self._pairs = [
            [self.inside(name, self.values[name][index], value.detach()) for name, value in (own or {}).items()]
            for index, own in enumerate(self._models)
        ]
        for pairs in self._pairs:
            _copy([inside for _, inside in pairs], [own for own, _ in pairs])
        for name, value in parameters.items():
            self.values[name].requires_grad_(value.requires_grad)

    @property
    def trained(self) -> dict[str, Tensor]:
        """Those that are trained, by name."""
        return {name: stacked for name, stacked in self.values.items() if stacked.requires_grad}

    def inside(self, name: str, padded: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """A tensor of one model's shape, and the part of the padded one that holds it: views of equal shape.

        Args:
            name: Of the parameter.
            padded: Of the template's shape.
            own: Of the model's shape.
        """
        axis, parts = self._layouts[name]
        if parts > 1:
            padded, own = padded.unflatten(axis, (parts, -1)), own.unflatten(axis, (parts, -1))
        if padded.shape != own.shape:
            padded = padded[tuple(slice(length) for length in own.shape)]
        return own, padded

    def masks(self) -> list[Tensor] | None:
        """1 where a model has a weight and 0 in the padding, for each that is trained: `[models, *largest shape]`.

        Padding gets a gradient where an activation is not zero at zero, and from the density of a draw without
        noise. None where there is no padding.
        """
        shapes = {name: value.shape[1:] for name, value in self.values.items()}
        if all(own[name].shape == shapes[name] for own in self._models if own is not None for name in own):
            return None
        masks = {name: torch.ones_like(stacked) for name, stacked in self.trained.items()}
        for index, own in enumerate(self._models):
            for name, value in (own or {}).items():
                if name in masks:
                    masks[name][index].zero_()
                    self.inside(name, masks[name][index], value.detach())[1].fill_(1)
        return list(masks.values())

    @torch.no_grad()
    def give_back(self, model: int) -> None:
        """Copy the weights of one model into it."""
        pairs = self._pairs[model]
        _copy([own for own, _ in pairs], [inside for _, inside in pairs])


def _layout(template: nn.Module, name: str) -> tuple[int, int]:
    """The axis of a parameter that its layer's outputs have, and in how many parts they are padded."""
    layer = template.get_submodule(name.rpartition(".")[0])
    is_transposed = isinstance(layer, nn.ConvTranspose2d) and name.endswith("weight")
    return int(is_transposed), getattr(layer, "halves", 1)


class StackedOptimizer:
    """Torch's own optimizer over stacked weights; neighbours of equal options and steps share a parameter group.

    Args:
        weights: What it trains.
        models: Their models, as the weights have them.
        optimizers: Theirs, of one class that treats every number alone, each with one parameter group.
        groups: Words, one for each model: neighbours of different words never share a group. With the same words
            the numbers are the same to the bit whichever models are None, though kernels round the last numbers of
            a group otherwise than its first ones.
    """

    def __init__(
        self,
        weights: StackedWeights,
        models: Sequence[nn.Module | None],
        optimizers: Sequence[Optimizer | None],
        groups: Sequence[str],
    ) -> None:
        self._weights = weights
        self._members = [
            None if model is None or optimizer is None else _Member(dict(model.named_parameters()), optimizer)
            for model, optimizer in zip(models, optimizers, strict=True)
        ]
        present = [member for member in self._members if member is not None]
        self._spans = _spans(groups, self._members)
        self._names = list(weights.trained)
        parameter_groups = []
        for span in self._spans:
            member = self._first(span) or present[0]
            parts = [nn.Parameter(weights.values[name].detach()[span]) for name in self._names]
            parameter_groups.append({**member.options, "params": parts})
        first = present[0].optimizer
        kind: Any = type(first)
        self._optimizer: Optimizer = kind(parameter_groups, lr=first.defaults["lr"])  # each group has its own
        for span, group in zip(self._spans, self._optimizer.param_groups, strict=True):
            for name, part in zip(self._names, group["params"], strict=True):
                self._fill_state(span, name, part)

    def step(self) -> None:
        """One step on the gradients of the stacked weights."""
        for span, group in zip(self._spans, self._optimizer.param_groups, strict=True):
            for name, part in zip(self._names, group["params"], strict=True):
                gradient = self._weights.values[name].grad
                part.grad = None if gradient is None else gradient[span]
        self._optimizer.step()

    @torch.no_grad()
    def give_back(self, model: int) -> None:
        """Copy the state of one model into its own optimizer."""
        member = self._members[model]
        assert member is not None
        number = next(number for number, span in enumerate(self._spans) if model < span.stop)
        row, group = model - self._spans[number].start, self._optimizer.param_groups[number]
        pairs = []
        for name, part in zip(self._names, group["params"], strict=True):
            own = member.parameters[name]
            for key, value in self._optimizer.state.get(part, {}).items():
                state = member.optimizer.state[own]
                if not _is_elementwise(key, value, part):
                    state[key] = value.clone() if isinstance(value, Tensor) else value
                    continue
                if key not in state:
                    state[key] = torch.zeros_like(own)
                pairs.append(self._weights.inside(name, value[row], state[key]))
        _copy([own for own, _ in pairs], [inside for _, inside in pairs])
        member.optimizer._opt_called = True  # type: ignore[attr-defined]  # or a scheduler warns

    def _first(self, span: slice) -> "_Member | None":
        return next((member for member in self._members[span] if member is not None), None)

    def _fill_state(self, span: slice, name: str, part: nn.Parameter) -> None:
        first = self._first(span)
        stored = first.optimizer.state.get(first.parameters[name]) if first else None
        if first is None or not stored:
            return
        state = self._optimizer.state[part]
        for key, value in stored.items():
            if not _is_elementwise(key, value, first.parameters[name]):
                state[key] = value.clone() if isinstance(value, Tensor) else value
                continue
            state[key] = torch.zeros_like(part)
            pairs = [
                self._weights.inside(name, row, member.optimizer.state[member.parameters[name]][key])
                for row, member in zip(state[key], self._members[span], strict=True)
                if member is not None
            ]
            _copy([inside for _, inside in pairs], [own for own, _ in pairs])


class _Member:
    """The optimizer of one model and what decides whose group it may share."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], optimizer: Optimizer) -> None:
        self.parameters, self.optimizer = parameters, optimizer
        [group] = optimizer.param_groups
        self.options = {key: value for key, value in group.items() if key != "params"}
        first = group["params"][0]
        state = optimizer.state.get(first, {})
        shared = {key: value for key, value in state.items() if not _is_elementwise(key, value, first)}
        self.key = repr(_plain(self.options)), repr(_plain(shared)), bool(state)


def _spans(groups: Sequence[str], members: Sequence[_Member | None]) -> list[slice]:
    """Neighbours of one word, of which all that are present have the same options and steps."""
    spans: list[slice] = []
    for _, neighbours in groupby(range(len(groups)), key=groups.__getitem__):
        positions = list(neighbours)
        keys = {member.key for member in members[positions[0] : positions[-1] + 1] if member is not None}
        bounds = [positions[0], positions[-1] + 1] if len(keys) <= 1 else [*positions, positions[-1] + 1]
        spans += [slice(start, stop) for start, stop in pairwise(bounds)]
    return spans


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.item() if isinstance(value, Tensor) else value for key, value in values.items()}


def _is_elementwise(key: str, value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape and key != "step"


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(targets, sources)
