"""The metrics that runs and commands report, with their units; `docs/reference/metrics.md` describes each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar


@dataclass(frozen=True)
class Metric:
    """What is known of a metric by its name.

    Args:
        unit: Empty where it has none.
        higher_is_better: Whether more of it is better; losses, bounds to be minimised and times are not so.
    """

    unit: str = ""
    higher_is_better: bool = False


METRICS = {
    "loss": Metric("nats/image"),
    "elbo": Metric("nats/image", higher_is_better=True),
    "negative_elbo": Metric("nats/image"),
    "distortion": Metric("nats/image"),
    "rate": Metric("nats/image"),
    "reconstruction_from_mean": Metric("nats/image"),
    "nll": Metric("nats/image"),
    "nll_se": Metric("nats/image"),
    "nll_monte_carlo_se": Metric("nats/image"),
    "nll_effective_samples": Metric("draws", higher_is_better=True),
    "nll_low_ess_share": Metric("share"),
    "nll_largest_weight": Metric("share"),
    "nll_images": Metric("images"),
    "bits_per_dim": Metric("bits"),
    "negative_elbo_bits_per_dim": Metric("bits"),
    "active_units": Metric("units", higher_is_better=True),
    "active_rate": Metric("nats/image"),
    "unit_rates": Metric("nats/image"),
    "mutual_information": Metric("nats", higher_is_better=True),
    "aggregate_kl": Metric("nats"),
    "aggregate_kl_upper_bound": Metric("nats"),
    "probe_accuracy": Metric("", higher_is_better=True),
    "knn_accuracy": Metric("", higher_is_better=True),
    "quadrature_nll": Metric("nats/image"),
    "quadrature_negative_elbo": Metric("nats/image"),
    "posterior_kl": Metric("nats/image"),
    "quadrature_images": Metric("images"),
    "inference_gap": Metric("nats/image"),
    "approximation_gap": Metric("nats/image"),
    "amortization_gap": Metric("nats/image"),
    "gaps_images": Metric("images"),
    "mig": Metric("", higher_is_better=True),
    "sap": Metric("", higher_is_better=True),
    "dci_disentanglement": Metric("", higher_is_better=True),
    "dci_completeness": Metric("", higher_is_better=True),
    "dci_informativeness": Metric("", higher_is_better=True),
    "mse": Metric(""),
    "psnr": Metric("dB", higher_is_better=True),
    "ssim": Metric("", higher_is_better=True),
    "feature_distance": Metric(""),
    "fid": Metric(""),
    "classifier_frechet_distance": Metric(""),
    "codebook_used": Metric("codes", higher_is_better=True),
    "code_perplexity": Metric("codes", higher_is_better=True),
    "learning_rate": Metric(""),
    "grad_norm": Metric(""),
    "epoch_seconds": Metric("s"),
    "images_per_second": Metric("images/s", higher_is_better=True),
}
_OTHER = Metric()
RENAMED_METRICS = {
    "codes_used": "codebook_used",
    "fid_of_own_classifier": "classifier_frechet_distance",
    "rate_of_active_units": "active_rate",
}
T = TypeVar("T")


def current_metric(name: str) -> str:
    """The current name of a metric such as `val/elbo` that a run may have stored under an old one."""
    split, slash, last = name.rpartition("/")
    return f"{split}{slash}{RENAMED_METRICS.get(last, last)}"


def with_current_metrics(metrics: Mapping[str, T]) -> dict[str, T]:
    """Values by metric, as a run has stored them, under the current names of the metrics."""
    return {current_metric(name): value for name, value in metrics.items()}


def unit(name: str) -> str:
    """The unit of a metric such as `val/elbo`; empty where it has none or is not one of these."""
    return _metric(name).unit


def higher_is_better(name: str) -> bool:
    """Whether more of a metric such as `val/elbo` is better."""
    return _metric(name).higher_is_better


def _metric(name: str) -> Metric:
    return METRICS.get(name.rpartition("/")[2], _OTHER)
