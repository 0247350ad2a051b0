"""Rename tables of stored configs and command lines: classes by `_target_`, and config keys."""

import re
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import Any

from vae_exp.configuration.config_dir import config_dir

# Classes that kept their names when their module was merged into another.
_MERGED_MODULES = {
    ("model.gaussian_likelihoods", "model.likelihoods"): [
        "FixedGaussianLikelihood",
        "OptimalGaussianLikelihood",
        "PerPixelGaussianLikelihood",
        "SharedGaussianLikelihood",
    ],
    ("model.grey_level_likelihoods", "model.likelihoods"): [
        "CategoricalLikelihood",
        "DiscretizedLogisticLikelihood",
        "DiscretizedLogisticMixtureLikelihood",
    ],
    ("objective.free_bits", "objective.beta_vae"): ["FreeBits"],
    ("objective.gradient_estimators", "objective.importance_weighted"): ["DReG", "PIWAE", "STL"],
    ("objective.multi_sample", "objective.importance_weighted"): ["CIWAE", "IWAE", "MIWAE"],
}
RENAMED_TARGETS = {
    "vae_exp.data.arrays.ArraysSource": "vae_exp.data.npz.NPZSource",
    "vae_exp.data.torchvision_colour.ColourSource": "vae_exp.data.torchvision_datasets.ColourSource",
    "vae_exp.data.torchvision_mnist.MNISTSource": "vae_exp.data.torchvision_datasets.MNISTSource",
    "vae_exp.evaluation.aggregate.AggregateEvaluator": "vae_exp.evaluation.aggregate_posterior.AggregateEvaluator",
    "vae_exp.evaluation.codes.CodesEvaluator": "vae_exp.evaluation.codebook_usage.CodesEvaluator",
    "vae_exp.evaluation.gaps.GapsEvaluator": "vae_exp.evaluation.inference_gap.InferenceGapEvaluator",
    "vae_exp.evaluation.probe.ProbeEvaluator": "vae_exp.evaluation.linear_probe.ProbeEvaluator",
    "vae_exp.evaluation.units.UnitsEvaluator": "vae_exp.evaluation.active_units.UnitsEvaluator",
    "vae_exp.model.two_layers.LowerLayerDecoder": "vae_exp.model.hierarchical.BottomLayerDecoder",
    "vae_exp.model.two_layers.TwoLayerEncoder": "vae_exp.model.hierarchical.TwoLayerEncoder",
    "vae_exp.model.two_layers.TwoLayerPrior": "vae_exp.model.hierarchical.TwoLayerPrior",
    "vae_exp.objective.beta_vae.Capacity": "vae_exp.objective.beta_vae.CapacityVAE",
    "vae_exp.objective.aggregate.BetaTCVAE": "vae_exp.objective.disentangling.BetaTCVAE",
    "vae_exp.objective.aggregate.DIPVAE": "vae_exp.objective.disentangling.DIPVAE",
    "vae_exp.objective.aggregate.InfoVAE": "vae_exp.objective.disentangling.InfoVAE",
} | {
    f"vae_exp.{old}.{name}": f"vae_exp.{new}.{name}"
    for (old, new), names in _MERGED_MODULES.items()
    for name in names
}
# `*` stands for one part. A key beside the `_target_` of another package is an argument of that class: it stays.
RENAMED_KEYS = {
    "checkpoint.every.epochs": "checkpoint.every_n_epochs",
    "checkpoint.every.seconds": "checkpoint.every_n_seconds",
    "data.resident": "data.preload_to_device",
    "data.source.white": "data.source.max_value",
    "evaluator.*.every": "evaluator.*.every_n_epochs",
    "evaluator.figures.manifold_side": "evaluator.figures.manifold_size",
    "evaluator.probe.neighbours": "evaluator.probe.num_neighbors",
    "evaluator.quadrature.reach": "evaluator.quadrature.extent",
    "evaluator.quadrature.side": "evaluator.quadrature.points_per_axis",
    "loss.*.over": "loss.*.duration",
    "manifold_side": "manifold_size",
    "model.decoder.likelihood.bounded": "model.decoder.likelihood.sigmoid_mean",
    "model.decoder.likelihood.least_sigma": "model.decoder.likelihood.min_sigma",
    "model.likelihood.bounded": "model.likelihood.sigmoid_mean",
    "model.likelihood.least_sigma": "model.likelihood.min_sigma",
    "model.prior.spread": "model.prior.init_std",
    "sweep.force": "sweep.rerun",
    "sweep.started": "sweep.started_at",
    "sweep.trial.journal": "sweep.trial.storage",
    "trainer.collapse_monitor": "trainer.warn_posterior_collapse",
    "trainer.distributed": "trainer.strategy",
    "trainer.gradient_clip": "trainer.max_grad_norm",
    "trainer.step": "trainer.execution",
}
# Old and new values of keys, by their old names.
RENAMED_VALUES: dict[str, dict[Any, Any]] = {"evaluator.*.every": {0: None}}
_FIRST_TARGETS = {new: old for old, new in RENAMED_TARGETS.items()}
_FIRST_KEYS = {new: old for old, new in RENAMED_KEYS.items()}
_FIRST_VALUES = {
    RENAMED_KEYS[key]: {new: old for old, new in values.items()} for key, values in RENAMED_VALUES.items()
}


def with_current_names(config: Any) -> Any:
    """Give every `_target_` and every key of a plain config its current name."""
    return _rename_keys(_rename_targets(config, RENAMED_TARGETS), RENAMED_KEYS, RENAMED_VALUES)


def with_first_names(config: Any) -> Any:
    """Give every `_target_` and every key of a plain config its first name; the hash of a job needs them."""
    return _rename_keys(_rename_targets(config, _FIRST_TARGETS), _FIRST_KEYS, _FIRST_VALUES)


def rename_override(override: str) -> str:
    """An override of a command line, typed or stored, with its key under the current name.

    Args:
        override: Such as `checkpoint.every.epochs=1`; its value may be a sweep.
            An evaluator that is no option of ours keeps its arguments.
    """
    key, equals, value = override.partition("=")
    name = key.lstrip("+~")
    old, current = _find_rename(name)
    for before, after in RENAMED_VALUES.get(old, {}).items():
        value = re.sub(rf"(?<![\w.]){before}(?![\w.])", "null" if after is None else str(after), value)
    return f"{key.removesuffix(name)}{current}{equals}{value}"


@cache
def _find_rename(name: str) -> tuple[str, str]:
    """The pattern that renames a key, and its current name; an empty pattern and the key itself if none does."""
    for old, new in RENAMED_KEYS.items():
        star = _match(old, name)
        group = old.partition(".*")[0]
        if star is None or (group == "evaluator" and not (config_dir() / group / f"{star}.yaml").is_file()):
            continue
        return old, new.replace("*", star)
    return "", name


def _match(pattern: str, key: str) -> str | None:
    """What stands for `*`, which is empty where there is none; None for another key."""
    matched = re.fullmatch(re.escape(pattern).replace(r"\*", r"([^.]+)"), key)
    return None if matched is None else "".join(matched.groups())


def _rename_targets(node: Any, names: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {
            key: names.get(value, value)
            if key == "_target_" and isinstance(value, str)
            else _rename_targets(value, names)
            for key, value in node.items()
        }
    return [_rename_targets(value, names) for value in node] if isinstance(node, list) else node


def _rename_keys(config: Any, keys: Mapping[str, str], values: Mapping[str, Mapping[Any, Any]]) -> Any:
    """Rename the keys of a config in place; `_rename_targets` has copied it."""
    for old, new in keys.items():
        group = old.partition(".*")[0] if "*" in old else ""
        for star in list(_node(config, group.split("."))) if group else [""]:
            _move(config, old.replace("*", str(star)), new.replace("*", str(star)), values.get(old, {}))
    return config


def _move(config: Any, old: str, new: str, values: Mapping[Any, Any]) -> None:
    *parents, key = old.split(".")
    node = _node(config, parents)
    if key not in node or not str(node.get("_target_", "vae_exp.")).startswith("vae_exp."):
        return
    value = node.pop(key)
    if not node:  # no other key is left
        del _node(config, parents[:-1])[parents[-1]]
    *parents, key = new.split(".")
    target = config
    for parent in parents:
        target = target.setdefault(parent, {})
    target[key] = values.get(value, value) if isinstance(value, Hashable) else value


def _node(config: Any, path: Sequence[str]) -> dict[str, Any]:
    """The mapping at a path; an empty one where there is none."""
    for part in path:
        config = config.get(part) if isinstance(config, dict) else None
    return config if isinstance(config, dict) else {}
