"""The typed schema of the configuration: the kind and the range of every value; the values stand in `conf/`."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from math import isfinite
from typing import Any, TypeVar, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from vae_exp.configuration.overrides import escape_interpolations
from vae_exp.errors import UserError, did_you_mean

T = TypeVar("T")
_INTERNALS = ("reference_type=", "object_type=")
_EXECUTION_MODES = ("auto", "eager", "graph", "compile")
_PRECISIONS = ("fp32", "tf32", "bf16")


def _at_least(key: str, value: float, least: float) -> None:
    """At least {0}."""
    if not isfinite(value) or value < least:
        raise UserError(f"{key}={value} must be at least {least}.")


def _between(key: str, value: int, least: int, most: int) -> None:
    """From {0} to {1}."""
    if not least <= value <= most:
        raise UserError(f"{key}={value} must be from {least} to {most}.")


def _positive(key: str, value: float) -> None:
    """Greater than 0."""
    if not isfinite(value) or value <= 0:
        raise UserError(f"{key}={value} must be greater than 0.")


def _share(key: str, value: float) -> None:
    """At least 0 and below 1."""
    if not 0 <= value < 1:
        raise UserError(f"{key}={value} must be at least 0 and below 1; null keeps none.")


def _seed(key: str, seed: int) -> None:
    """From 0 to 2^63 − 1."""
    _at_least(key, seed, 0)
    if seed >= 2**63:
        raise UserError(f"{key}={seed} must be below 2**63.")


def _threads(key: str, value: Any) -> None:
    """`auto`, `null` or a whole number of at least 1."""
    if value != "auto" and (type(value) is not int or value < 1):
        raise UserError(f"{key}={value} must be auto, null (torch's own) or at least 1.")


def _steps_per_graph(key: str, value: Any) -> None:
    """`auto` or a whole number of at least 1."""
    if value != "auto" and (type(value) is not int or value < 1):
        raise UserError(f"{key}={value} must be auto or a whole number of at least 1.")


def _one_of(key: str, value: Any, *allowed: str | bool) -> None:
    """{choices}."""
    if value not in allowed:
        raise UserError(f"{key}={value} must be one of {', '.join(map(str, allowed))}.")


def _some_of(key: str, values: list[str], *allowed: str) -> None:
    """A list of {choices}."""
    if not values or not set(values) <= set(allowed):
        raise UserError(
            f"{key}={values} must list some of {', '.join(allowed)}; null takes what the device knows."
        )


def _widths(key: str, widths: list[int]) -> None:
    """Widths of at least 1; `[]` is a linear model."""
    if any(width < 1 for width in widths):
        raise UserError(f"{key}={widths} must list widths of at least 1; [] is a linear model.")


def _lists_of_widths(key: str, lists: list[list[int]]) -> None:
    """Lists of widths of at least 1."""
    if not lists or min(sum(lists, [1])) < 1:
        raise UserError(
            f"{key}={lists} must list lists of widths of at least 1, such as [[500],[400,200]]; "
            f"null takes model.hidden_dims."
        )


def _batch_sizes(key: str, sizes: list[int]) -> None:
    """Sizes of at least 1."""
    if not sizes or min(sizes) < 1:
        raise UserError(f"{key}={sizes} must list sizes of at least 1, such as [100,1000].")


def _stack_sizes(key: str, sizes: list[int]) -> None:
    """Numbers of nets of at least 1; `[]` is none."""
    if any(size < 1 for size in sizes):
        raise UserError(f"{key}={sizes} must list numbers of nets of at least 1, such as [1,64]; [] is none.")


def _image_shape(key: str, shape: list[int]) -> None:
    """`[channels, height, width]`."""
    if len(shape) != 3 or min(shape) < 1:
        raise UserError(f"{key}={shape} must be [channels, height, width], each at least 1.")


def _run(key: str, directory: str) -> None:
    """Not empty."""
    if not directory.strip():
        remedy = ", or leave resume out for a new run" if key == "resume" else ""
        raise UserError(f"{key}= is empty; name a run directory{remedy}.")


def _runs(key: str, directories: str | list[str]) -> None:
    """A run directory, a sweep, or a list of them."""
    names = [directories] if isinstance(directories, str) else directories
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{key}={directories} must be a run directory, a sweep, or a list of them.")
    for name in names:
        _run(key, name)


def _tracker_mode(key: str, mode: str) -> None:
    """`offline`, `online` or `none`."""
    source = " (from WANDB_MODE)" if mode == os.environ.get("WANDB_MODE") else ""
    if mode not in ("offline", "online", "none"):
        raise UserError(f"{key}={mode}{source} must be offline, online or none.")


def check_sweep_name(key: str, name: str) -> None:
    """Refuse a name that is no plain folder name.

    Raises:
        UserError: names the value and what is allowed.
    """
    if not re.fullmatch(r"\w[\w.-]*", str(name)):
        raise UserError(f"{key}={name} must begin with a letter or digit and hold only those, '.', '-' and '_'.")


def _target(key: str, node: Mapping[str, Any]) -> None:
    """A mapping with `_target_`."""
    if not isinstance(node.get("_target_"), str):
        raise UserError(f"{key}._target_ is missing; it names the class that is instantiated.")


def _optimizer(key: str, node: Mapping[str, Any]) -> None:
    """A mapping with `_target_`."""
    _target(key, node)
    for name in {"lr", "weight_decay"} & set(node):
        value = node[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise UserError(f"{key}.{name}={value} must be a finite number.")
        _positive(f"{key}.{name}", value) if name == "lr" else _at_least(f"{key}.{name}", value, 0)


def _value(check: Callable[..., None], *limits: Any, default: Any = MISSING) -> Any:
    """A key whose value, unless it is null, is checked by `check(key, value, *limits)`."""
    return field(default=default, metadata={"check": check, "limits": limits})


def _part(check: Callable[..., None] = _target) -> Any:
    """A mapping that is instantiated by its `_target_`."""
    return field(default_factory=dict, metadata={"check": check, "limits": ()})


@dataclass
class ModelConfig:
    """`model`: the sizes that encoder and decoder share, and the parts by `_target_`.

    Args:
        latent_dim: Number of latent units.
        hidden_dims: Sizes of the hidden layers, from the image to the latent.
        activation: `relu`, `leaky_relu`, `elu`, `gelu`, `silu`, `softplus`, `tanh`, `sigmoid` or `gated`.
        latent_dims: Numbers of latent units of both layers of a hierarchical model.
        top_hidden_dims: Sizes of the hidden layers between the two latent layers.
        classes: How many classes the labels name.
        num_codes: Entries of the codebook.
        code_dim: Numbers of an entry of the codebook.
        posterior: The family of q(z given x).
        initialization: How weights start.
        output_bias: How the bias of the last layer of the decoder starts.
    """

    _target_: str = MISSING
    latent_dim: int | None = _value(_at_least, 1)
    hidden_dims: list[int] = _value(_widths)
    activation: str = MISSING
    latent_dims: list[int] | None = None
    top_hidden_dims: list[int] | None = None
    classes: int | None = None
    num_codes: int | None = None
    code_dim: int | None = None
    posterior: str = "diagonal"
    freeze: list[str] = field(default_factory=list)
    initialization: str = _value(_one_of, "default", "glorot_uniform", default="default")
    output_bias: str = _value(_one_of, "default", "data_mean", default="default")
    encoder: dict[str, Any] = _part()
    decoder: dict[str, Any] = _part()
    likelihood: dict[str, Any] = field(default_factory=dict)
    prior: dict[str, Any] = _part()


@dataclass
class DataLocationConfig:
    """Where the data of a run are now; null leaves what the run was trained with.

    Args:
        root: The folder of data sets.
        path: The file or folder of the images.
    """

    root: str | None = None
    path: str | None = None


@dataclass
class DataConfig(DataLocationConfig):
    """`data`: where images come from and how they are split.

    Args:
        image_shape: Shape of an image; null takes that of the data.
        validation_size: How many training images are held out for validation.
        split_seed: Seed of the draw of the validation images.
        layout: The order of the axes of arrays: `NHW`, `NCHW`, `NHWC`, or `auto`.
        preload_to_device: Whether all training images are kept in the memory of the device.
        binarization: Whether pixels become 0 or 1 at random, with the grey value as the probability.
        binarization_seed: Seed of `binarization=fixed`.
        size: To what images are resized: pixels along each side, or `[height, width]`; null leaves them.
        fit: How an image of another aspect ratio gets the size: `crop` cuts its middle, `resize` squeezes it.
        channels: 1 for grey, 3 for colour; None as the files are.
        labels: Where the labels of image files come from.
        skip_corrupt: Whether images that cannot be read are left out.
        rescale: `[black, white]`, or `minmax`, the least and greatest of the training images; null takes uint8,
            bool and float in [0, 1] only.
        augment: Random changes of training images: `flip`, `shift`, `crop`.
    """

    image_shape: list[int] | None = _value(_image_shape)
    validation_size: int = _value(_at_least, 0)
    split_seed: int = _value(_seed)
    layout: str = "auto"
    preload_to_device: Any = _value(_one_of, "auto", True, False, default="auto")
    binarization: str = _value(_one_of, "none", "dynamic", "fixed")
    binarization_seed: int = _value(_seed)
    size: Any = None
    fit: str = "crop"
    channels: int | None = None
    labels: str | None = None
    skip_corrupt: bool = False
    rescale: Any = None
    augment: list[str] = field(default_factory=list)
    source: dict[str, Any] = _part()


@dataclass
class EarlyStoppingConfig:
    """`trainer.early_stopping`.

    Args:
        min_delta: By how much the monitor has to fall to count as an improvement.
    """

    patience: int | None = _value(_at_least, 1)
    min_delta: float = _value(_at_least, 0)


@dataclass
class TrainerConfig:
    """`trainer`: where, how long and in which portions to train; old configs lack keys with a value here.

    Args:
        device: The device that trains.
        epochs: How often training goes through all training images.
        batch_size: Images of a step; with several processes, of all together.
        execution: How the steps of training are run.
        strategy: How several processes train one model.
    """

    device: str = MISSING
    epochs: int = _value(_at_least, 1)
    batch_size: int = _value(_at_least, 1)
    execution: str = _value(_one_of, *_EXECUTION_MODES)
    steps_per_graph: Any = _value(_steps_per_graph, default="auto")
    precision: str = _value(_one_of, *_PRECISIONS)
    deterministic: bool = MISSING
    max_grad_norm: float | None = _value(_positive)
    ema_decay: float | None = _value(_share)
    strategy: str = _value(_one_of, "none", "ddp")
    threads: Any = _value(_threads, default=None)
    warn_posterior_collapse: bool = True
    print_batch_sum: bool = False
    max_train_images: int | None = _value(_at_least, 1, default=None)
    loss_reduction: str = _value(_one_of, "sum", "mean", default="sum")
    monitor: str | None = MISSING
    early_stopping: EarlyStoppingConfig = MISSING


@dataclass
class CheckpointConfig:
    """`checkpoint`: how often `last.pt` is saved, whichever comes first."""

    every_n_epochs: int | None = _value(_at_least, 1)
    every_n_seconds: float | None = _value(_at_least, 0)


@dataclass
class TrackerConfig:
    """`tracker`: Weights & Biases.

    Args:
        mode: Whether a run is logged to W&B, with or without a network.
        project: The project of W&B that the run belongs to.
        notes: A longer description of the run.
        tags: Labels of the run.
    """

    mode: str = _value(_tracker_mode)
    project: str = MISSING
    entity: str | None = None
    group: str | None = MISSING
    name: str | None = MISSING
    notes: str | None = None
    tags: list[str] = MISSING
    root: str = MISSING
    log_checkpoint: str = _value(_one_of, "none", "best", default="none")
    save_code: bool = False


@dataclass
class TrialConfig:
    """`sweep.trial`: of which search a job is a trial; a sweeper that searches sets it.

    Args:
        storage: The file of the search.
        number: Number of the trial in the search.
        prune: Whether the job may be pruned.
    """

    storage: str | None = None
    number: int = 0
    prune: bool = False


@dataclass
class SweepConfig:
    """`sweep`: its name, and what is passed to its jobs.

    Args:
        started_at: When the sweep started; set by the sweep itself.
    """

    name: str | None = _value(check_sweep_name)
    rerun: bool = False
    checked: bool = False
    started_at: str | None = None
    trial: TrialConfig = field(default_factory=TrialConfig)


@dataclass
class TrainConfig:
    """The whole configuration of a training run.

    Args:
        seed: Seed of the weights, of the order of images and of all draws.
    """

    seed: int = _value(_seed)
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    loss: dict[str, Any] = _part()
    optimizer: dict[str, Any] = _part(_optimizer)
    scheduler: dict[str, Any] = field(default_factory=dict)
    trainer: TrainerConfig = MISSING
    checkpoint: CheckpointConfig = MISSING
    evaluator: dict[str, Any] = field(default_factory=dict)
    tracker: TrackerConfig = MISSING
    sweep: SweepConfig = MISSING
    initialize_from: str | None = _value(_run, default=None)
    initialize_strict: bool = True
    resume: str | None = _value(_run, default=None)
    resume_on_other_pixels: bool = False
    trusted_packages: list[str] = field(default_factory=list)


@dataclass
class StoredRunConfig:
    """What `encode`, `evaluate` and `generate` all ask: which run, which weights, which images.

    Args:
        split: Which images of the run.
        device: The device that computes.
        seed: Seed of the draws.
    """

    run: str = _value(_run)
    split: str = _value(_one_of, "train", "val", "test")
    checkpoint: str | None = _value(_one_of, "best", "last")
    device: str = MISSING
    seed: int = _value(_seed)
    trusted_packages: list[str] = MISSING
    data: DataLocationConfig = MISSING


@dataclass
class EvaluateConfig(StoredRunConfig):
    """The whole configuration of `evaluate`."""

    run: Any = _value(_runs)
    evaluator: dict[str, Any] = field(default_factory=dict)
    force: bool = MISSING


@dataclass
class NewDataConfig(DataConfig):
    """Data that a run was not trained on: a group of `data`, or `path` alone."""

    image_shape: list[int] | None = _value(_image_shape, default=None)
    validation_size: int = 0
    split_seed: int = 0
    binarization: str = "none"
    binarization_seed: int = 0
    source: dict[str, Any] = field(default_factory=dict)


@dataclass
class EncodeConfig(StoredRunConfig):
    """The whole configuration of `encode`.

    Args:
        overwrite: Whether `output` may exist.
        batch_size: Images at once.
    """

    split: str | None = _value(_one_of, "train", "val", "test")  # type: ignore[assignment]
    data: NewDataConfig = field(default_factory=NewDataConfig)
    output: str | None = None
    overwrite: bool = False
    num_samples: int = _value(_at_least, 1)
    num_importance_samples: int | None = _value(_at_least, 1)
    batch_size: int = _value(_at_least, 1)
    sort: str | None = _value(_one_of, "elbo", "nll")
    odd: list[int] = MISSING
    figure: bool = MISSING

    @property
    def names_new_images(self) -> bool:
        """Whether `data` names images to encode; beside a split it says where the run's own data are."""
        return self.split is None and bool(self.data.source or self.data.path)


@dataclass
class GenerateConfig(StoredRunConfig):
    """The whole configuration of `generate`."""

    columns: int = _value(_between, 2, 100)
    manifold_size: int = _value(_between, 2, 200)
    prior: str = _value(_one_of, "model", "fitted")
    components: int = _value(_at_least, 1)
    samples: int | None = _value(_at_least, 1)
    output: str | None = MISSING
    overwrite: bool = MISSING


@dataclass
class ExportConfig:
    """The whole configuration of `export`."""

    run: str = _value(_run)
    checkpoint: str | None = _value(_one_of, "best", "last")
    trusted_packages: list[str] = MISSING
    part: str | None = _value(_one_of, "encoder", "decoder")
    onnx: Any = _value(_one_of, "auto", True, False)
    weights: str | None = _value(_one_of, "safetensors")
    output: str | None = MISSING
    overwrite: bool = MISSING


@dataclass
class BenchmarkConfig:
    """The whole configuration of `benchmark`.

    Args:
        seed: Seed of the weights and batches.
        output: The file that the figures are written to, as JSON.
    """

    seed: int = _value(_seed)
    device: str = MISSING
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    loss: dict[str, Any] = _part()
    optimizer: dict[str, Any] = _part()
    batch_size: list[int] = _value(_batch_sizes)
    hidden_dims: list[list[int]] | None = _value(_lists_of_widths)
    execution_modes: list[str] | None = _value(_some_of, *_EXECUTION_MODES[1:])
    precisions: list[str] | None = _value(_some_of, *_PRECISIONS)
    stack_sizes: list[int] | None = _value(_stack_sizes)
    rounds: int = _value(_at_least, 1)
    burst_seconds: float = _value(_positive)
    burst_steps: int | None = _value(_at_least, 1)
    memory: bool = MISSING
    profile_run: bool = MISSING
    output: str = MISSING


@dataclass
class ExploreConfig:
    """The whole configuration of `explore`.

    Args:
        overwrite: Whether `output` may exist.
    """

    run: Any = _value(_runs)
    checkpoint: str | None = _value(_one_of, "best", "last")
    trusted_packages: list[str] = MISSING
    data: DataLocationConfig = MISSING
    port: int = _value(_between, 0, 65535)
    open: bool = MISSING
    output: str | None = MISSING
    overwrite: bool = MISSING
    labels: bool = MISSING
    size_limit: float = _value(_positive)


COMMANDS = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "encode": EncodeConfig,
    "generate": GenerateConfig,
    "export": ExportConfig,
    "explore": ExploreConfig,
    "benchmark": BenchmarkConfig,
}


def register_schemas() -> None:
    """Make the schemas known to Hydra, under the names that the primary configs start their defaults with."""
    store = ConfigStore.instance()
    for command, schema in COMMANDS.items():
        store.store(name=f"{command}_schema", node=schema, provider="vae_exp")


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
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), escape_interpolations(plain)))
    except OmegaConfBaseException as error:
        raise UserError(strip_omegaconf_noise(str(error))) from error
    if not isinstance(settings, schema):
        raise UserError(f"the config does not follow {schema.__name__}.")
    _check_values(settings, "")
    return settings


def strip_omegaconf_noise(text: str) -> str:
    """An OmegaConf message without the lines that tell a user nothing."""
    return "\n".join(line for line in text.strip().splitlines() if not line.strip().startswith(_INTERNALS))


def _check_keys(plain: Mapping[str, Any], schema: type, prefix: str) -> None:
    types = get_type_hints(schema)
    names = [key.name for key in fields(schema)]
    for key, value in plain.items():
        if key not in names:
            hint = did_you_mean(key, names, prefix)
            raise UserError(f"{prefix}{key}={value} is not a key of the config; {hint}")
        if is_dataclass(types[key]) and isinstance(value, Mapping):
            _check_keys(value, types[key], f"{prefix}{key}.")


def _check_values(settings: Any, prefix: str) -> None:
    for key in fields(settings):
        value = getattr(settings, key.name)
        if is_dataclass(value):
            _check_values(value, f"{prefix}{key.name}.")
        elif value is not None and "check" in key.metadata:
            key.metadata["check"](f"{prefix}{key.name}", value, *key.metadata["limits"])
