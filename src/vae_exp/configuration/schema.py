"""The typed schema of the configuration: the kind and the range of every value; the values stand in `conf/`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from vae_exp.configuration import value_checks

_EXECUTION_MODES = ("auto", "eager", "graph", "compile")
_PRECISIONS = ("fp32", "tf32", "bf16")


def _value(check: Callable[..., None], *limits: Any, default: Any = MISSING) -> Any:
    """A key whose value, unless it is null, is checked by `check(key, value, *limits)`."""
    return field(default=default, metadata={"check": check, "limits": limits})


def _part(check: Callable[..., None] = value_checks.check_target) -> Any:
    """A mapping that is instantiated by its `_target_`."""
    return field(default_factory=dict, metadata={"check": check, "limits": ()})


@dataclass
class ModelConfig:
    """`model`: the sizes that encoder and decoder share, and the parts by `_target_`.

    Args:
        latent_dim: Number of latent units.
        hidden_dims: Sizes of the hidden layers, from the image to the latent.
        activation: What follows each hidden layer; `gated` is a ⊙ σ(b) of two layers (Dauphin et al. 2017).
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
    latent_dim: int | None = _value(value_checks.check_min, 1)
    hidden_dims: list[int] = _value(value_checks.check_widths)
    activation: str = MISSING
    latent_dims: list[int] | None = None
    top_hidden_dims: list[int] | None = None
    classes: int | None = None
    num_codes: int | None = None
    code_dim: int | None = None
    posterior: str = "diagonal"
    freeze: list[str] = field(default_factory=list)
    initialization: str = _value(value_checks.check_choice, "default", "glorot_uniform", default="default")
    output_bias: str = _value(value_checks.check_choice, "default", "data_mean", default="default")
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
        layout: The order of the axes of arrays; `auto` looks for one or three channels.
        preload_to_device: Whether all training images are kept in the memory of the device.
        binarization: Whether pixels become 0 or 1 at random, with the grey value as the probability.
        binarization_seed: Seed of `binarization=fixed`.
        size: To what images are resized: pixels along each side, or `[height, width]`; null leaves them.
        fit: How an image of another aspect ratio gets the size: `crop` cuts its middle, `resize` squeezes it.
        channels: 1 for grey, 3 for colour; null as the files are.
        labels: Where the labels of image files come from.
        skip_corrupt: Whether images that cannot be read are left out.
        rescale: `[black, white]`, or `minmax`, the least and greatest of the training images; null takes uint8,
            bool and float in [0, 1] only.
        augment: Random changes of training images.
    """

    image_shape: list[int] | None = _value(value_checks.check_image_shape)
    validation_size: int = _value(value_checks.check_min, 0)
    split_seed: int = _value(value_checks.check_seed)
    layout: str = "auto"
    preload_to_device: Any = _value(value_checks.check_choice, "auto", True, False, default="auto")
    binarization: str = _value(value_checks.check_choice, "none", "dynamic", "fixed")
    binarization_seed: int = _value(value_checks.check_seed)
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

    patience: int | None = _value(value_checks.check_min, 1)
    min_delta: float = _value(value_checks.check_min, 0)


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
    epochs: int = _value(value_checks.check_min, 1)
    batch_size: int = _value(value_checks.check_min, 1)
    execution: str = _value(value_checks.check_choice, *_EXECUTION_MODES)
    steps_per_graph: Any = _value(value_checks.check_auto_or_count, default="auto")
    precision: str = _value(value_checks.check_choice, *_PRECISIONS)
    deterministic: bool = MISSING
    max_grad_norm: float | None = _value(value_checks.check_positive)
    ema_decay: float | None = _value(value_checks.check_fraction)
    strategy: str = _value(value_checks.check_choice, "none", "ddp")
    threads: Any = _value(value_checks.check_auto_or_count, default=None)
    warn_posterior_collapse: bool = True
    print_batch_sum: bool = False
    max_train_images: int | None = _value(value_checks.check_min, 1, default=None)
    loss_reduction: str = _value(value_checks.check_choice, "sum", "mean", default="sum")
    monitor: str | None = MISSING
    early_stopping: EarlyStoppingConfig = MISSING


@dataclass
class CheckpointConfig:
    """`checkpoint`: how often `last.pt` is saved, whichever comes first."""

    every_n_epochs: int | None = _value(value_checks.check_min, 1)
    every_n_seconds: float | None = _value(value_checks.check_min, 0)


@dataclass
class TrackerConfig:
    """`tracker`: Weights & Biases.

    Args:
        mode: Whether a run is logged to W&B, with or without a network.
        project: The project of W&B that the run belongs to.
        notes: A longer description of the run.
        tags: Labels of the run.
    """

    mode: str = _value(value_checks.check_tracker_mode)
    project: str = MISSING
    entity: str | None = None
    group: str | None = MISSING
    name: str | None = MISSING
    notes: str | None = None
    tags: list[str] = MISSING
    root: str = MISSING
    log_checkpoint: str = _value(value_checks.check_choice, "none", "best", default="none")
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

    name: str | None = _value(value_checks.check_sweep_name)
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

    seed: int = _value(value_checks.check_seed)
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    loss: dict[str, Any] = _part()
    optimizer: dict[str, Any] = _part(value_checks.check_optimizer)
    scheduler: dict[str, Any] = field(default_factory=dict)
    trainer: TrainerConfig = MISSING
    checkpoint: CheckpointConfig = MISSING
    evaluator: dict[str, Any] = field(default_factory=dict)
    tracker: TrackerConfig = MISSING
    sweep: SweepConfig = MISSING
    initialize_from: str | None = _value(value_checks.check_run, default=None)
    initialize_strict: bool = True
    resume: str | None = _value(value_checks.check_run, default=None)
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

    run: str = _value(value_checks.check_run)
    split: str = _value(value_checks.check_choice, "train", "val", "test")
    checkpoint: str | None = _value(value_checks.check_choice, "best", "last")
    device: str = MISSING
    seed: int = _value(value_checks.check_seed)
    trusted_packages: list[str] = MISSING
    data: DataLocationConfig = MISSING


@dataclass
class EvaluateConfig(StoredRunConfig):
    """The whole configuration of `evaluate`."""

    run: Any = _value(value_checks.check_runs)
    evaluator: dict[str, Any] = field(default_factory=dict)
    force: bool = MISSING


@dataclass
class NewDataConfig(DataConfig):
    """Data that a run was not trained on: a group of `data`, or `path` alone."""

    image_shape: list[int] | None = _value(value_checks.check_image_shape, default=None)
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

    split: str | None = _value(value_checks.check_choice, "train", "val", "test")  # type: ignore[assignment]
    data: NewDataConfig = field(default_factory=NewDataConfig)
    output: str | None = None
    overwrite: bool = False
    num_samples: int = _value(value_checks.check_min, 1)
    num_importance_samples: int | None = _value(value_checks.check_min, 1)
    batch_size: int = _value(value_checks.check_min, 1)
    sort: str | None = _value(value_checks.check_choice, "elbo", "nll")
    odd: list[int] = MISSING
    figure: bool = MISSING

    @property
    def names_new_images(self) -> bool:
        """Whether `data` names images to encode; beside a split it says where the run's own data are."""
        return self.split is None and bool(self.data.source or self.data.path)


@dataclass
class GenerateConfig(StoredRunConfig):
    """The whole configuration of `generate`."""

    columns: int = _value(value_checks.check_range, 2, 100)
    manifold_size: int = _value(value_checks.check_range, 2, 200)
    prior: str = _value(value_checks.check_choice, "model", "fitted")
    components: int = _value(value_checks.check_min, 1)
    samples: int | None = _value(value_checks.check_min, 1)
    output: str | None = MISSING
    overwrite: bool = MISSING


@dataclass
class ExportConfig:
    """The whole configuration of `export`."""

    run: str = _value(value_checks.check_run)
    checkpoint: str | None = _value(value_checks.check_choice, "best", "last")
    trusted_packages: list[str] = MISSING
    part: str | None = _value(value_checks.check_choice, "encoder", "decoder")
    onnx: Any = _value(value_checks.check_choice, "auto", True, False)
    weights: str | None = _value(value_checks.check_choice, "safetensors")
    output: str | None = MISSING
    overwrite: bool = MISSING


@dataclass
class BenchmarkConfig:
    """The whole configuration of `benchmark`.

    Args:
        seed: Seed of the weights and batches.
        output: The file that the figures are written to, as JSON.
    """

    seed: int = _value(value_checks.check_seed)
    device: str = MISSING
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    loss: dict[str, Any] = _part()
    optimizer: dict[str, Any] = _part()
    batch_size: list[int] = _value(value_checks.check_batch_sizes)
    hidden_dims: list[list[int]] | None = _value(value_checks.check_width_lists)
    execution_modes: list[str] | None = _value(value_checks.check_subset, *_EXECUTION_MODES[1:])
    precisions: list[str] | None = _value(value_checks.check_subset, *_PRECISIONS)
    stack_sizes: list[int] | None = _value(value_checks.check_stack_sizes)
    rounds: int = _value(value_checks.check_min, 1)
    burst_seconds: float = _value(value_checks.check_positive)
    burst_steps: int | None = _value(value_checks.check_min, 1)
    memory: bool = MISSING
    profile_run: bool = MISSING
    output: str = MISSING


@dataclass
class ExploreConfig:
    """The whole configuration of `explore`.

    Args:
        overwrite: Whether `output` may exist.
    """

    run: Any = _value(value_checks.check_runs)
    checkpoint: str | None = _value(value_checks.check_choice, "best", "last")
    trusted_packages: list[str] = MISSING
    data: DataLocationConfig = MISSING
    port: int = _value(value_checks.check_range, 0, 65535)
    open: bool = MISSING
    output: str | None = MISSING
    overwrite: bool = MISSING
    labels: bool = MISSING
    size_limit: float = _value(value_checks.check_positive)


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
