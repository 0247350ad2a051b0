"""The typed schema of the configuration, and the checks that a schema cannot express.

Values stand in `conf/`; here is what kind each of them is and what range it may have.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from math import isfinite
from typing import Any, TypeVar, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from vae_exp.errors import UserError, did_you_mean

T = TypeVar("T")
TRACKER_MODES = ("offline", "online", "none")
REDUCTIONS = ("sum", "mean")
_BEFORE_THE_KEY: Mapping[str, Mapping[str, Any]] = {
    "vae_exp.objective.vq.VQ": {"position_reduction": "sum"},
    "vae_exp.objective.beta_vae.CapacityVAE": {"over": "image"},
}
_INTERNALS = ("reference_type=", "object_type=")
EXECUTION_MODES = ("auto", "eager", "graph", "compile")
PRECISIONS = ("fp32", "tf32", "bf16")
STRATEGIES = ("none", "ddp")
BINARIZATIONS = ("none", "dynamic", "fixed")
PRELOAD_TO_DEVICE = ("auto", True, False)
INITIALIZATIONS = ("default", "glorot_uniform")
OUTPUT_BIASES = ("default", "data_mean")
SPLITS = ("train", "val", "test")
CHECKPOINTS = ("best", "last")


@dataclass
class ModelConfig:
    """`model`: the sizes that encoder and decoder share, and the parts by `_target_`."""

    _target_: str = MISSING
    latent_dim: int | None = MISSING
    hidden_dims: list[int] = MISSING
    activation: str = MISSING
    latent_dims: list[int] | None = None
    top_hidden_dims: list[int] | None = None
    classes: int | None = None
    num_codes: int | None = None
    code_dim: int | None = None
    posterior: str = "diagonal"
    initialization: str = "default"
    output_bias: str = "default"
    encoder: dict[str, Any] = field(default_factory=dict)
    decoder: dict[str, Any] = field(default_factory=dict)
    likelihood: dict[str, Any] = field(default_factory=dict)
    prior: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.latent_dim is not None:
            _check_min("model.latent_dim", self.latent_dim, 1)
        if any(width < 1 for width in self.hidden_dims):
            raise UserError(
                f"model.hidden_dims={self.hidden_dims} must list widths of at least 1; [] is a linear model."
            )
        _check_choice("model.initialization", self.initialization, INITIALIZATIONS)
        _check_choice("model.output_bias", self.output_bias, OUTPUT_BIASES)
        for part in ("encoder", "decoder", "prior"):
            _check_target(f"model.{part}", getattr(self, part))


@dataclass
class DataConfig:
    """`data`: where images come from and how they are split."""

    image_shape: list[int] | None = MISSING
    validation_size: int = MISSING
    split_seed: int = MISSING
    root: str | None = None
    path: str | None = None
    layout: str = "auto"
    preload_to_device: Any = "auto"  # as configs of older versions have it
    binarization: str = MISSING
    binarization_seed: int = MISSING
    source: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_min("data.validation_size", self.validation_size, 0)
        _check_seed("data.split_seed", self.split_seed)
        _check_target("data.source", self.source)
        _check_choice("data.binarization", self.binarization, BINARIZATIONS)
        _check_seed("data.binarization_seed", self.binarization_seed)
        _check_choice("data.preload_to_device", self.preload_to_device, PRELOAD_TO_DEVICE)
        shape = self.image_shape
        if shape is not None and (len(shape) != 3 or min(shape) < 1):
            raise UserError(f"data.image_shape={shape} must be [channels, height, width], each at least 1.")


@dataclass
class EarlyStoppingConfig:
    """`trainer.early_stopping`."""

    patience: int | None = MISSING
    min_delta: float = MISSING

    def __post_init__(self) -> None:
        if self.patience is not None:
            _check_min("trainer.early_stopping.patience", self.patience, 1)
        _check_min("trainer.early_stopping.min_delta", self.min_delta, 0)


@dataclass
class TrainerConfig:
    """`trainer`: where, how long and in which portions to train."""

    device: str = MISSING
    epochs: int = MISSING
    batch_size: int = MISSING
    execution: str = MISSING
    precision: str = MISSING
    deterministic: bool = MISSING
    max_grad_norm: float | None = MISSING
    ema_decay: float | None = MISSING
    strategy: str = MISSING
    threads: Any = None  # torch's own number, as configs of older versions have it
    warn_posterior_collapse: bool = True
    print_batch_sum: bool = False
    max_train_images: int | None = None
    loss_reduction: str = "sum"
    monitor: str | None = MISSING
    early_stopping: EarlyStoppingConfig = MISSING

    def __post_init__(self) -> None:
        _check_min("trainer.epochs", self.epochs, 1)
        _check_min("trainer.batch_size", self.batch_size, 1)
        _check_choice("trainer.execution", self.execution, EXECUTION_MODES)
        _check_choice("trainer.precision", self.precision, PRECISIONS)
        _check_choice("trainer.strategy", self.strategy, STRATEGIES)
        _check_choice("trainer.loss_reduction", self.loss_reduction, REDUCTIONS)
        if self.threads not in ("auto", None) and (type(self.threads) is not int or self.threads < 1):
            raise UserError(f"trainer.threads={self.threads} must be auto, null (torch's own) or at least 1.")
        if self.max_grad_norm is not None:
            _check_positive("trainer.max_grad_norm", self.max_grad_norm)
        if self.max_train_images is not None:
            _check_min("trainer.max_train_images", self.max_train_images, 1)
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise UserError(f"trainer.ema_decay={self.ema_decay} must be at least 0 and below 1; null keeps none.")


@dataclass
class CheckpointConfig:
    """`checkpoint`: how often `last.pt` is saved, whichever comes first."""

    every_n_epochs: int | None = MISSING
    every_n_seconds: float | None = MISSING

    def __post_init__(self) -> None:
        if self.every_n_epochs is not None:
            _check_min("checkpoint.every_n_epochs", self.every_n_epochs, 1)
        if self.every_n_seconds is not None:
            _check_min("checkpoint.every_n_seconds", self.every_n_seconds, 0)


@dataclass
class TrackerConfig:
    """`tracker`: Weights & Biases."""

    mode: str = MISSING
    project: str = MISSING
    group: str | None = MISSING
    name: str | None = MISSING
    tags: list[str] = MISSING
    root: str = MISSING

    def __post_init__(self) -> None:
        _check_choice("tracker.mode", self.mode, TRACKER_MODES)


@dataclass
class TrialConfig:
    """`sweep.trial`: of which search a job is a trial; a sweeper that searches sets it."""

    storage: str | None = None
    number: int = 0
    prune: bool = False


@dataclass
class SweepConfig:
    """`sweep`: its name, and what is passed to its jobs."""

    name: str | None = MISSING
    rerun: bool = False
    checked: bool = False
    started_at: str | None = None
    trial: TrialConfig = field(default_factory=TrialConfig)

    def __post_init__(self) -> None:
        check_sweep_name(self.name)


@dataclass
class TrainConfig:
    """The whole configuration of a training run."""

    seed: int = MISSING
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    loss: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    trainer: TrainerConfig = MISSING
    checkpoint: CheckpointConfig = MISSING
    evaluator: dict[str, Any] = field(default_factory=dict)
    tracker: TrackerConfig = MISSING
    sweep: SweepConfig = MISSING
    resume: str | None = None
    trusted_packages: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.resume is not None and not self.resume.strip():
            raise UserError("resume= is empty; name a run directory, or leave resume out for a new run.")
        _check_seed("seed", self.seed)
        _check_target("loss", self.loss)
        _check_target("optimizer", self.optimizer)
        _check_numbers("optimizer", self.optimizer, {"lr": _check_positive, "weight_decay": _check_not_negative})


@dataclass
class DataLocationConfig:
    """Where the data of a run lie now; null leaves what the run was trained with."""

    root: str | None = None
    path: str | None = None


@dataclass
class StoredRunConfig:
    """What `evaluate` and `generate` both ask: which run, which weights, which images."""

    run: str = MISSING
    split: str = MISSING
    checkpoint: str | None = MISSING
    device: str = MISSING
    seed: int = MISSING
    trusted_packages: list[str] = MISSING
    data: DataLocationConfig = MISSING

    def __post_init__(self) -> None:
        if not self.run.strip():
            raise UserError("run= is empty; name a run directory.")
        _check_choice("split", self.split, SPLITS)
        if self.checkpoint is not None:
            _check_choice("checkpoint", self.checkpoint, CHECKPOINTS)
        _check_seed("seed", self.seed)


@dataclass
class EvaluateConfig(StoredRunConfig):
    """The whole configuration of `evaluate`."""

    evaluator: dict[str, Any] = field(default_factory=dict)


@dataclass
class GenerateConfig(StoredRunConfig):
    """The whole configuration of `generate`."""

    columns: int = MISSING
    manifold_size: int = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("columns", self.columns, 2, 100)
        _check_range("manifold_size", self.manifold_size, 2, 200)


@dataclass
class BenchmarkConfig:
    """The whole configuration of `benchmark`."""

    seed: int = MISSING
    device: str = MISSING
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    loss: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    batch_size: list[int] = MISSING
    hidden_dims: list[list[int]] | None = MISSING
    execution_modes: list[str] | None = MISSING
    precisions: list[str] | None = MISSING
    rounds: int = MISSING
    burst_seconds: float = MISSING
    burst_steps: int | None = MISSING
    memory: bool = MISSING
    profile_run: bool = MISSING
    output: str = MISSING

    def __post_init__(self) -> None:
        _check_seed("seed", self.seed)
        _check_target("loss", self.loss)
        _check_target("optimizer", self.optimizer)
        _check_min("rounds", self.rounds, 1)
        _check_positive("burst_seconds", self.burst_seconds)
        if self.burst_steps is not None:
            _check_min("burst_steps", self.burst_steps, 1)
        if not self.batch_size or min(self.batch_size) < 1:
            raise UserError(f"batch_size={self.batch_size} must list sizes of at least 1, such as [100,1000].")
        if self.hidden_dims is not None and (not self.hidden_dims or min(sum(self.hidden_dims, [1])) < 1):
            raise UserError(
                f"hidden_dims={self.hidden_dims} must list lists of widths of at least 1, such as "
                f"[[500],[400,200]]; null takes model.hidden_dims."
            )
        _check_subset("execution_modes", self.execution_modes, EXECUTION_MODES[1:])
        _check_subset("precisions", self.precisions, PRECISIONS)


def register_schemas() -> None:
    """Make the schemas known to Hydra, under the names that the primary configs start their defaults with."""
    store = ConfigStore.instance()
    for name, schema in (
        ("train_schema", TrainConfig),
        ("evaluate_schema", EvaluateConfig),
        ("generate_schema", GenerateConfig),
        ("benchmark_schema", BenchmarkConfig),
    ):
        store.store(name=name, node=schema, provider="vae_exp")


def resolve_to_dict(config: DictConfig, image_shape: Sequence[int] | None = None) -> dict[str, Any]:
    """The config as plain containers, every interpolation resolved.

    Args:
        config: A composed or stored config.
        image_shape: `[channels, height, width]` of the data, where the config left it to them.

    Raises:
        UserError: if a value is missing or an interpolation leads nowhere.
    """
    try:
        shape = {} if image_shape is None else {"data": {"image_shape": list(image_shape)}}
        plain = OmegaConf.to_container(OmegaConf.merge(config, shape), resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        remedy = "run=outputs/DIR, or run=latest" if error.full_key == "run" else f"set it, {error.full_key}=…"
        raise UserError(f"{error.full_key} is missing; {remedy}") from error
    except OmegaConfBaseException as error:
        raise UserError(f"the config cannot be resolved: {strip_omegaconf_noise(str(error))}") from error
    except RecursionError as error:
        raise UserError("the config cannot be resolved: it is nested without end.") from error
    if not isinstance(plain, dict):
        raise UserError(f"the config is a {type(plain).__name__}; expected a mapping.")
    return {str(key): value for key, value in plain.items()}


def parse_config(config: DictConfig, schema: type[T]) -> T:
    """The configuration as typed objects, every value within its range.

    Raises:
        UserError: names the key, its value and what would be right.
    """
    plain = resolve_to_dict(config)
    _check_keys(plain, schema, "")
    try:
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), plain))
    except OmegaConfBaseException as error:
        raise UserError(strip_omegaconf_noise(str(error))) from error
    if not isinstance(settings, schema):
        raise UserError(f"the config does not follow {schema.__name__}.")
    return settings


def values_before_the_key(loss: Mapping[str, Any]) -> Mapping[str, Any]:
    """What runs were trained with before their loss had a key for it; their stored configs lack these keys.

    Args:
        loss: The group `loss` of a config.
    """
    return _BEFORE_THE_KEY.get(str(loss.get("_target_")), {})


def _check_keys(plain: Mapping[str, Any], schema: type, prefix: str) -> None:
    types = get_type_hints(schema)
    known = [each.name for each in fields(schema)]
    for key, value in plain.items():
        if key not in known:
            hint = did_you_mean(key, known, prefix)
            raise UserError(f"{prefix}{key}={value} is not a key of the config; {hint}")
        if is_dataclass(types[key]) and isinstance(value, Mapping):
            _check_keys(value, types[key], f"{prefix}{key}.")


def _check_min(key: str, value: float, least: float) -> None:
    if not isfinite(value) or value < least:
        raise UserError(f"{key}={value} must be at least {least}.")


def _check_range(key: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise UserError(f"{key}={value} must be from {least} to {most}.")


def check_sweep_name(name: str | None) -> None:
    """Refuse a name that is no plain folder name.

    Raises:
        UserError: names the value and what is allowed.
    """
    if name is not None and not re.fullmatch(r"\w[\w.-]*", str(name)):
        raise UserError(
            f"sweep.name={name} must begin with a letter or digit and hold only those, '.', '-' and '_'."
        )


def strip_omegaconf_noise(text: str) -> str:
    """An OmegaConf message without the lines that tell a user nothing."""
    return "\n".join(line for line in text.strip().splitlines() if not line.strip().startswith(_INTERNALS))


def _check_seed(key: str, seed: int) -> None:
    _check_min(key, seed, 0)
    if seed >= 2**63:
        raise UserError(f"{key}={seed} must be below 2**63.")


def _check_choice(key: str, value: Any, allowed: tuple[str | bool, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{key}={value} must be one of {', '.join(map(str, allowed))}.")


def _check_subset(key: str, values: list[str] | None, allowed: tuple[str, ...]) -> None:
    if values is not None and (not values or not set(values) <= set(allowed)):
        raise UserError(
            f"{key}={values} must list some of {', '.join(allowed)}; null takes what the device knows."
        )


def _check_target(key: str, node: Mapping[str, Any]) -> None:
    if not isinstance(node.get("_target_"), str):
        raise UserError(f"{key}._target_ is missing; it names the class that is instantiated.")


def _check_numbers(key: str, node: Mapping[str, Any], rules: Mapping[str, Any]) -> None:
    for name, rule in rules.items():
        if name not in node:
            continue
        value = node[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise UserError(f"{key}.{name}={value} must be a finite number.")
        rule(f"{key}.{name}", value)


def _check_positive(key: str, value: float) -> None:
    if not isfinite(value) or value <= 0:
        raise UserError(f"{key}={value} must be greater than 0.")


def _check_not_negative(key: str, value: float) -> None:
    _check_min(key, value, 0)
