"""The metrics that runs and commands report: units, decimals, which direction is better, meaning, origin."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor, isfinite, log10
from typing import TypeVar

_DECIMALS_OF_UNIT = {
    "nats/image": 3, "nats": 3, "bits": 4, "dB": 2, "share": 4, "s": 2,
    "draws": 1, "codes": 1, "units": 0, "images": 0, "images/s": 0,
}  # fmt: skip
_SIGNIFICANT_DIGITS = 5
_MAX_DECIMALS = 6
_SCIENTIFIC_FROM = 1e9


@dataclass(frozen=True)
class Metric:
    """What is known of a metric by its name.

    Args:
        unit: Empty where it has none.
        higher_is_better: Whether more of it is better; losses, bounds to be minimised and times are not so.
        meaning: What it is.
        logged: What reports it: training (`train/…`), validation (`val/…`), or an evaluator, while training or by
            `evaluate` (`test/…`).
        is_ranked: Whether a run with a better value is a better run; of a part of the loss, a count or an error
            estimate the direction is for sorting alone.
        decimals: How many are shown; None takes those of the unit, or as many as the numbers need.
    """

    unit: str = ""
    higher_is_better: bool = False
    meaning: str = ""
    logged: str = ""
    is_ranked: bool = True
    decimals: int | None = None


METRICS = {
    "loss": Metric(
        "nats/image",
        meaning=(
            "what is minimised; with `loss=elbo` it is −`elbo`. In `val/loss` schedules are at their end, so "
            "that epochs can be compared"
        ),
        logged="training, validation",
    ),
    "elbo": Metric(
        "nats/image",
        higher_is_better=True,
        meaning="E_q log p(x given z) − KL(q ‖ p), always with β = 1",
        logged="training, validation, evaluator=[elbo]",
    ),
    "negative_elbo": Metric(
        "nats/image",
        meaning="−`elbo`",
        logged="evaluator=[elbo]",
    ),
    "distortion": Metric(
        "nats/image",
        meaning="−E_q log p(x given z), z drawn from q(z given x)",
        logged="training, validation, evaluator=[elbo]",
        is_ranked=False,
    ),
    "rate": Metric(
        "nats/image",
        meaning="KL(q(z given x) ‖ p(z))",
        logged="training, validation, evaluator=[elbo]",
        is_ranked=False,
    ),
    "reconstruction_from_mean": Metric(
        "nats/image",
        meaning="−log p(x given z) at z = E[z given x]; plus the rate it is no bound",
        logged="evaluator=[elbo]",
        is_ranked=False,
    ),
    "nll": Metric(
        "nats/image",
        meaning=(
            "−log p(x) by importance sampling; errs upwards, less so with more samples. Of a "
            "class-conditional model −log p(x given its class), as all its figures"
        ),
        logged="evaluator=[nll]",
    ),
    "nll_se": Metric(
        "nats/image",
        meaning="standard error of `nll` over images",
        logged="evaluator=[nll]",
        is_ranked=False,
        decimals=4,
    ),
    "nll_monte_carlo_se": Metric(
        "nats/image",
        meaning="the part of that error that comes from drawing z (jackknife); without the bias of `nll`",
        logged="evaluator=[nll]",
        is_ranked=False,
        decimals=4,
    ),
    "nll_effective_samples": Metric(
        "draws",
        higher_is_better=True,
        meaning="(Σw)² / Σw² of an image's importance weights, averaged over images: how many of the draws count",
        logged="evaluator=[nll]",
        is_ranked=False,
    ),
    "nll_low_ess_share": Metric(
        "share",
        meaning=(
            "images with fewer than 10 effective samples; a warning above 5 %, because `nll` is then too high"
        ),
        logged="evaluator=[nll]",
        is_ranked=False,
    ),
    "nll_largest_weight": Metric(
        "share",
        meaning=(
            "largest importance weight of an image, as a share of the sum of its weights, averaged over images"
        ),
        logged="evaluator=[nll]",
        is_ranked=False,
    ),
    "nll_images": Metric(
        "images",
        meaning="how many images `nll` is an average of",
        logged="evaluator=[nll]",
        is_ranked=False,
    ),
    "bits_per_dim": Metric(
        "bits",
        meaning=(
            "`nll` per pixel and channel; only where the likelihood is a probability of these very images: "
            "grey levels, or Bernoulli on black and white"
        ),
        logged="evaluator=[nll]",
    ),
    "negative_elbo_bits_per_dim": Metric(
        "bits",
        meaning="−`elbo` per pixel and channel, where `bits_per_dim` is a probability",
        logged="evaluator=[elbo]",
    ),
    "active_units": Metric(
        "units",
        higher_is_better=True,
        meaning="latent units with Var_x E[z given x] > 0.01 (Burda et al. 2016)",
        logged="evaluator=[units]",
    ),
    "active_rate": Metric(
        "nats/image",
        meaning="the part of the rate that the active units carry",
        logged="evaluator=[units]",
        is_ranked=False,
    ),
    "unit_rates": Metric(
        "nats/image",
        meaning="the rate of each latent unit, a list; in W&B and the dashboard alone",
        logged="evaluator=[units]",
        is_ranked=False,
    ),
    "mutual_information": Metric(
        "nats",
        higher_is_better=True,
        meaning=(
            "I(x; z) under q, over the images scored; at most log N for N images: a lower bound within one "
            "nat of it, with a warning"
        ),
        logged="evaluator=[aggregate]",
    ),
    "aggregate_kl": Metric(
        "nats",
        meaning="KL(q(z) ‖ p(z)) of the aggregate posterior; with `mutual_information` it adds up to the rate",
        logged="evaluator=[aggregate]",
        is_ranked=False,
    ),
    "aggregate_kl_upper_bound": Metric(
        "nats",
        meaning=(
            "in place of `aggregate_kl` where `mutual_information` is within one nat of log N: the mixture "
            "over N images is farther from the prior than that over all images"
        ),
        logged="evaluator=[aggregate]",
        is_ranked=False,
    ),
    "probe_accuracy": Metric(
        "",
        higher_is_better=True,
        meaning="of logistic regression on E[z given x], fitted on half of the images, scored on the other half",
        logged="evaluator=[probe]",
        decimals=4,
    ),
    "knn_accuracy": Metric(
        "",
        higher_is_better=True,
        meaning="of k nearest neighbours on E[z given x], likewise",
        logged="evaluator=[probe]",
        decimals=4,
    ),
    "quadrature_nll": Metric(
        "nats/image",
        meaning="−log p(x) by quadrature over one or two latent units: no Monte Carlo error",
        logged="evaluator=[quadrature]",
    ),
    "quadrature_negative_elbo": Metric(
        "nats/image",
        meaning="−ELBO with its expectation integrated too",
        logged="evaluator=[quadrature]",
    ),
    "posterior_kl": Metric(
        "nats/image",
        meaning="KL(q(z given x) ‖ p(z given x)), `quadrature_negative_elbo` − `quadrature_nll`",
        logged="evaluator=[quadrature]",
    ),
    "quadrature_images": Metric(
        "images",
        meaning="how many images the figures by quadrature are averages of",
        logged="evaluator=[quadrature]",
        is_ranked=False,
    ),
    "inference_gap": Metric(
        "nats/image",
        meaning="log p(x) − ELBO; `approximation_gap` + `amortization_gap` (Cremer, Li & Duvenaud 2018)",
        logged="evaluator=[gaps]",
    ),
    "approximation_gap": Metric(
        "nats/image",
        meaning="log p(x) − ELBO under the best diagonal Gaussian, found for each image",
        logged="evaluator=[gaps]",
    ),
    "amortization_gap": Metric(
        "nats/image",
        meaning="what the best diagonal Gaussian of each image gains over the encoder's",
        logged="evaluator=[gaps]",
    ),
    "gaps_images": Metric(
        "images",
        meaning="how many images the gaps are averages of",
        logged="evaluator=[gaps]",
        is_ranked=False,
    ),
    "mig": Metric(
        "",
        higher_is_better=True,
        meaning="mutual information gap, on E[z given x] (Chen et al. 2018)",
        logged="evaluator=[disentanglement]",
        decimals=4,
    ),
    "sap": Metric(
        "",
        higher_is_better=True,
        meaning="separated attribute predictability (Kumar, Sattigeri & Balakrishnan 2018)",
        logged="evaluator=[disentanglement]",
        decimals=4,
    ),
    "dci_disentanglement": Metric(
        "",
        higher_is_better=True,
        meaning=(
            "of random forests' importances, by unit (Eastwood & Williams 2018); 1 where every unit knows a "
            "single factor"
        ),
        logged="evaluator=[disentanglement]",
        decimals=4,
    ),
    "dci_completeness": Metric(
        "",
        higher_is_better=True,
        meaning="of random forests' importances, by factor",
        logged="evaluator=[disentanglement]",
        decimals=4,
    ),
    "dci_informativeness": Metric(
        "",
        higher_is_better=True,
        meaning="accuracy of the random forests of DCI",
        logged="evaluator=[disentanglement]",
        decimals=4,
    ),
    "mse": Metric(
        "",
        meaning="squared error of E[x given z] at z = E[z given x], averaged over values and images",
        logged="evaluator=[reconstruction]",
    ),
    "psnr": Metric(
        "dB",
        higher_is_better=True,
        meaning="−10 log₁₀ of the mean squared error of an image, averaged over images",
        logged="evaluator=[reconstruction]",
    ),
    "ssim": Metric(
        "",
        higher_is_better=True,
        meaning=(
            "structural similarity (Wang et al. 2004; Gaussian window of 11 pixels), for images of at least "
            "6 pixels"
        ),
        logged="evaluator=[reconstruction]",
        decimals=4,
    ),
    "feature_distance": Metric(
        "",
        meaning=(
            "LPIPS (Zhang et al. 2018, equation 1) with all weights one, on the features of a file of yours "
            "(`evaluator.reconstruction.features`)"
        ),
        logged="evaluator=[reconstruction]",
        decimals=4,
    ),
    "fid": Metric(
        "",
        meaning=(
            "Fréchet distance of samples from images, on the features of a file of yours "
            "(`evaluator.fid.features`); the fewer images, the further it errs upwards"
        ),
        logged="evaluator=[fid]",
        decimals=2,
    ),
    "fid_images": Metric(
        "images",
        meaning="how many images, and as many samples, a Fréchet distance is of; compare those of equal numbers",
        logged="evaluator=[fid]",
        is_ranked=False,
    ),
    "classifier_frechet_distance": Metric(
        "",
        meaning=(
            "as `fid`, on a small classifier trained on images of the split: compares models on the same data, "
            "nothing else"
        ),
        logged="evaluator=[fid]",
        decimals=2,
    ),
    "codebook_used": Metric(
        "codes",
        higher_is_better=True,
        meaning="entries of the codebook that occur at all (`model=vq`)",
        logged="evaluator=[codes]",
        decimals=0,
    ),
    "code_perplexity": Metric(
        "codes",
        higher_is_better=True,
        meaning="e to the entropy of the entries over images and positions",
        logged="evaluator=[codes]",
    ),
    "learning_rate": Metric(
        "",
        meaning="of the epoch, before the scheduler's step",
        logged="training",
        is_ranked=False,
    ),
    "grad_norm": Metric(
        "",
        meaning=(
            "norm of the gradient of all parameters in the last step of the epoch, before "
            "`trainer.max_grad_norm` clips it; grows with the batch unless `trainer.loss_reduction=mean`"
        ),
        logged="training",
        is_ranked=False,
    ),
    "epoch_seconds": Metric(
        "s",
        meaning="training time of the epoch, without validation and evaluators",
        logged="training",
        is_ranked=False,
    ),
    "images_per_second": Metric(
        "images/s",
        higher_is_better=True,
        meaning="training images of the epoch by that time",
        logged="training",
        is_ranked=False,
    ),
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


def is_ranked(name: str) -> bool:
    """Whether a run with a better value of a metric such as `val/elbo` is a better run."""
    return name.rpartition("/")[2] in METRICS and _metric(name).is_ranked


def decimals(name: str) -> int | None:
    """How many decimals of a metric such as `val/elbo` are shown; None for as many as the numbers need."""
    metric = _metric(name)
    return _DECIMALS_OF_UNIT.get(metric.unit) if metric.decimals is None else metric.decimals


def format_value(name: str, value: float, is_mean: bool = False) -> str:
    """A number of a metric as tables show it, the dashboard's too: `fixed` and `decimalsOf` in `45_formats.js`.

    A comma separates thousands. What its decimals cannot show, and the very large, have a power of ten. A mean of
    counts, and its error, have one decimal.
    """
    if not isfinite(value):
        return str(float(value))
    size, digits = abs(value), decimals(name)
    if digits is None:
        digits = _needed_decimals(size)
    if is_mean:
        digits = max(digits, 1)
    if size >= _SCIENTIFIC_FROM or 0 < size < min(0.1, 10.0**-digits):
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{mantissa}e{int(exponent):+d}"
    return f"{value + 0.0:,.{digits}f}"  # without the sign of zero


def _needed_decimals(size: float) -> int:
    """As many as five significant digits need, without zeros at the end."""
    if size < 10.0**-_MAX_DECIMALS:
        return 0
    rounded = f"{float(f'{size:.{_SIGNIFICANT_DIGITS}g}'):.10f}"
    return max(0, min(len(rounded.rstrip("0").partition(".")[2]), _MAX_DECIMALS - max(0, floor(log10(size)))))


def _metric(name: str) -> Metric:
    return METRICS.get(name.rpartition("/")[2], _OTHER)
