"""Rename tables of stored configs and command lines: classes by `_target_`, and config keys."""

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from vae_exp.configuration.config_dir import config_dir

_INTERPOLATION = re.compile(r"\$\{(\w[\w.]*)\}")
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
# Keys of the schema, whatever a group instantiates.
RENAMED_KEYS = {
    "checkpoint.every.epochs": "checkpoint.every_n_epochs",
    "checkpoint.every.seconds": "checkpoint.every_n_seconds",
    "data.resident": "data.preload_to_device",
    "loss.reduction": "trainer.loss_reduction",
    "manifold_side": "manifold_size",
    "model.codes": "model.num_codes",
    "model.upper_hidden_dims": "model.top_hidden_dims",
    "sweep.force": "sweep.rerun",
    "sweep.started": "sweep.started_at",
    "sweep.trial.journal": "sweep.trial.storage",
    "trainer.collapse_monitor": "trainer.warn_posterior_collapse",
    "trainer.distributed": "trainer.strategy",
    "trainer.gradient_clip": "trainer.max_grad_norm",
    "trainer.step": "trainer.execution",
    "trust": "trusted_packages",
}
# Arguments of our classes; `*` stands for one part. Beside the `_target_` of another package they stay.
RENAMED_ARGUMENTS = {
    "data.source.white": "data.source.max_value",
    "evaluator.*.every": "evaluator.*.every_n_epochs",
    "evaluator.figures.manifold_side": "evaluator.figures.manifold_size",
    "evaluator.probe.neighbours": "evaluator.probe.num_neighbors",
    "evaluator.quadrature.reach": "evaluator.quadrature.extent",
    "evaluator.quadrature.side": "evaluator.quadrature.points_per_axis",
    "loss.*.over": "loss.*.duration",
    "model.decoder.likelihood.bounded": "model.decoder.likelihood.sigmoid_mean",
    "model.decoder.likelihood.least_sigma": "model.decoder.likelihood.min_sigma",
    "model.encoder.codes": "model.encoder.num_codes",
    "model.encoder.upper_hidden_dims": "model.encoder.top_hidden_dims",
    "model.likelihood.bounded": "model.likelihood.sigmoid_mean",
    "model.likelihood.least_sigma": "model.likelihood.min_sigma",
    "model.prior.spread": "model.prior.init_std",
    "model.prior.upper_hidden_dims": "model.prior.top_hidden_dims",
}
# Old and new values of keys, by their old names.
RENAMED_VALUES: dict[str, dict[Any, Any]] = {
    "evaluator.*.every": {0: None},
    "model.initialization": {"torch": "default"},
    "model.output_bias": {"torch": "default"},
}
# Keys of `data` that older configs lack, with the values that mean what these do.
ADDED_DATA_KEYS: dict[str, Any] = {
    "size": None,
    "fit": "crop",
    "channels": None,
    "labels": None,
    "skip_corrupt": False,
    "rescale": None,
    "augment": [],
}
# Keys that older configs lack, and what a run did without them: by group, and by the class in its first name where
# the schema cannot give the value. At these values a key is no part of a job's identity.
_ADDED_KEYS: list[tuple[str, str | None, dict[str, Any]]] = [
    ("loss", "vae_exp.objective.vq.VQ", {"position_reduction": "sum"}),
    ("loss", "vae_exp.objective.beta_vae.Capacity", {"over": "image"}),
    (
        "model.encoder",
        "vae_exp.model.vq.VQEncoder",
        {"codebook_init": "uniform", "codebook_decay": None, "restart_below": None},
    ),
    ("trainer", None, {"max_train_images": None}),
    ("", None, {"initialize_from": None, "initialize_strict": True}),
    ("model", None, {"freeze": []}),
    ("data", None, ADDED_DATA_KEYS),
    ("data.source", None, {"rescale": None}),
]


class _Rename(NamedTuple):
    old: str
    new: str
    values: dict[Any, Any]
    is_argument: bool


_RENAMES = [
    _Rename(old, new, RENAMED_VALUES.get(old, {}), old in RENAMED_ARGUMENTS)
    for old, new in {**{key: key for key in RENAMED_VALUES}, **RENAMED_KEYS, **RENAMED_ARGUMENTS}.items()
]


def with_current_names(config: Any) -> Any:
    """Give every `_target_` and key of a plain config its current name; and the keys that it lacks."""
    config = _rename(config, RENAMED_TARGETS, _RENAMES)
    for node, values in _added_keys(config, of_classes=True):
        for key, value in values.items():
            node.setdefault(key, value)
    return config


def with_first_names(config: Any) -> Any:
    """Give every `_target_` and every key of a plain config its first name; the hash of a job needs them."""
    back = [_Rename(new, old, _reverse(values), is_argument) for old, new, values, is_argument in _RENAMES]
    config = _rename(config, _reverse(RENAMED_TARGETS), back)
    for node, values in _added_keys(config):
        for key, value in values.items():
            if key in node and node[key] == value:
                del node[key]
    return config


def _added_keys(config: Any, *, of_classes: bool = False) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The nodes of a config that may lack keys, with these keys and their values."""
    for group, target, values in _ADDED_KEYS:
        node = _node(config, group.split(".") if group else [])
        named = str(node.get("_target_"))
        accepted = [named, _reverse(RENAMED_TARGETS).get(named, named), *([] if of_classes else [None])]
        if node and target in accepted:
            yield node, values


def rename_override(override: str) -> str:
    """An override of a command line, typed or stored, with its key under the current name.

    Args:
        override: Such as `checkpoint.every.epochs=1`; its value may be a sweep. What a single `+` adds within a
            group is an argument of the user's own class and stays, as do those of an evaluator that is no option.
    """
    key, equals, value = override.partition("=")
    name = key.lstrip("+~")
    if re.match(r"\+[^+]", key) and "." in name:
        return override
    match = _find_rename(name)
    if match is None:
        return override
    rename, current = match
    for before, after in rename.values.items():
        value = re.sub(rf"(?<![\w.]){before}(?![\w.])", "null" if after is None else str(after), value)
    return f"{key.removesuffix(name)}{current}{equals}{value}"


@cache
def _find_rename(name: str) -> tuple[_Rename, str] | None:
    """What renames a key, and its current name."""
    for rename in _RENAMES:
        star = _match(rename.old, name)
        group = rename.old.partition(".*")[0]
        if star is None or (group == "evaluator" and not (config_dir() / group / f"{star}.yaml").is_file()):
            continue
        return rename, rename.new.replace("*", star)
    return None


def _match(pattern: str, key: str) -> str | None:
    """What stands for `*`, which is empty where there is none; None for another key."""
    matched = re.fullmatch(re.escape(pattern).replace(r"\*", r"([^.]+)"), key)
    return None if matched is None else "".join(matched.groups())


def _reverse(table: Mapping[Any, Any]) -> dict[Any, Any]:
    return {new: old for old, new in table.items()}


def _rename(config: Any, targets: Mapping[str, str], renames: Sequence[_Rename]) -> Any:
    """A copy of a config with other names of its targets, of its keys, and of the keys in its interpolations."""
    config = _rename_strings(config, targets, {rename.old: rename.new for rename in renames})
    for old, new, values, is_argument in renames:
        group = old.partition(".*")[0] if "*" in old else ""
        for star in list(_node(config, group.split("."))) if group else [""]:
            _move(config, old.replace("*", str(star)), new.replace("*", str(star)), values, is_argument)
    return config


def _rename_strings(node: Any, targets: Mapping[str, str], keys: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {
            key: targets.get(value, value)
            if key == "_target_" and isinstance(value, str)
            else _rename_strings(value, targets, keys)
            for key, value in node.items()
        }
    if isinstance(node, str):
        return _INTERPOLATION.sub(lambda match: f"${{{keys.get(match[1], match[1])}}}", node)
    return [_rename_strings(value, targets, keys) for value in node] if isinstance(node, list) else node


def _move(config: Any, old: str, new: str, values: Mapping[Any, Any], is_argument: bool) -> None:
    """Move a value to another key, unless the new key has a value already: the old one is a class's own then."""
    *parents, key = old.split(".")
    *new_parents, new_key = new.split(".")
    node = _node(config, parents)
    if key not in node or (is_argument and not str(node.get("_target_", "vae_exp.")).startswith("vae_exp.")):
        return
    target = config
    for parent in new_parents:
        target = target.setdefault(parent, {})
    if not isinstance(target, dict) or (new != old and new_key in target):
        return
    value = node.pop(key)
    target[new_key] = values.get(value, value) if isinstance(value, Hashable) else value
    if not node:  # no other key is left
        del _node(config, parents[:-1])[parents[-1]]


def _node(config: Any, path: Sequence[str]) -> dict[str, Any]:
    """The mapping at a path; an empty one where there is none."""
    for part in path:
        config = config.get(part) if isinstance(config, dict) else None
    return config if isinstance(config, dict) else {}
