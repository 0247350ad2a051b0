"""Rename table of the classes that stored configs name by `_target_`."""

from collections.abc import Mapping
from typing import Any

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
    "vae_exp.objective.aggregate.BetaTCVAE": "vae_exp.objective.disentangling.BetaTCVAE",
    "vae_exp.objective.aggregate.DIPVAE": "vae_exp.objective.disentangling.DIPVAE",
    "vae_exp.objective.aggregate.InfoVAE": "vae_exp.objective.disentangling.InfoVAE",
}
_FIRST_NAMES = {new: old for old, new in RENAMED_TARGETS.items()}


def with_current_targets(config: Any) -> Any:
    """A plain config with every `_target_` under its current name."""
    return _rename(config, RENAMED_TARGETS)


def with_first_targets(config: Any) -> Any:
    """A plain config with every `_target_` under its first name, from which the hash of a job is computed."""
    return _rename(config, _FIRST_NAMES)


def _rename(node: Any, names: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {
            key: names.get(value, value) if key == "_target_" and isinstance(value, str) else _rename(value, names)
            for key, value in node.items()
        }
    return [_rename(value, names) for value in node] if isinstance(node, list) else node
