"""Exact log p(x) and the true posterior by numerical integration over one or two latent units."""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vae_exp.argument_checks import check_int, check_number, check_optional_int
from vae_exp.data.images import Batch, ImageSet
from vae_exp.errors import UserError
from vae_exp.evaluation.nll import decode_chunk_size, outputs_per_value
from vae_exp.evaluation.plotting import plot_true_posteriors
from vae_exp.evaluation.requirements import first_posterior, require_density, scored_images
from vae_exp.model.conditional import ConditionalVAE
from vae_exp.model.vae import VAE

_log = logging.getLogger(__name__)
_MAX_UNITS = 2
_BATCH = 100  # images
_FIGURE_IMAGES = 6
_TOLERANCE = 0.01
_ROUNDING = 1e-3  # nats per image, the error of decoding in float32
_COARSE = 0.3  # mass of a posterior in a single cell


class QuadratureEvaluator:
    """log p(x) = log ∫ p(z) p(x|z) dz by the trapezoidal rule, for one or two latent units.

    Yields, in nats per image: `quadrature_nll`, −log p(x) without Monte Carlo error;
    `quadrature_negative_elbo`, with the expectation under q integrated too; `posterior_kl`, KL(q(z|x) ‖
    p(z|x)), which is the difference of the two, unless the grid misses so much that it would be negative;
    `quadrature_images`, how many images these are averages of; and the figure `posteriors`: p(z|x) of some
    images with the mean and deviation of q(z|x) on it. Exact up to the grid; a warning says if the grid misses
    more than 1 % of the prior's mass or of an image's q.

    Args:
        points_per_axis: Points along each axis.
        extent: The grid goes from −extent to extent; 6 covers a standard normal prior.
        num_images: How many images of the split, a random subset (`scored_images`); None for all.
        every_n_epochs: Interval during training; None runs it once, at the end.

    Raises:
        ValueError: if a count is below its minimum, or the extent not positive and finite.
    """

    def __init__(
        self, points_per_axis: int, extent: float, num_images: int | None, every_n_epochs: int | None
    ) -> None:
        self.every_n_epochs = check_optional_int("every_n_epochs", every_n_epochs)
        self._points_per_axis = check_int("points_per_axis", points_per_axis, 3)
        self._num_images = check_optional_int("num_images", num_images)
        self._extent = check_number("extent", extent, above=0)

    def check(self, vae: VAE, images: ImageSet) -> None:
        """Refuse more latent units than can be integrated over."""
        units = first_posterior(vae, images).event_shape[-1]
        if units > _MAX_UNITS:
            raise UserError(f"evaluator=quadrature integrates over at most 2 latent units; the model has {units}.")
        require_density("quadrature", vae, images)

    @torch.no_grad()
    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, Any]]:
        """Yield numbers and a figure."""
        self.check(vae, images)
        images = scored_images("quadrature", images, self._num_images)
        grid, log_cell = self._grid(first_posterior(vae, images).event_shape[-1], images.device)
        log_prior = vae.prior().log_prob(grid).double() + log_cell
        missed = abs(1 - log_prior.logsumexp(dim=0).exp().item())
        coarsest = 0.0
        nll, elbo = [], []
        maps: list[tuple[Tensor, Tensor, Tensor]] = []
        for batch in images.batches(_BATCH):
            log_joint = _log_likelihood(vae, grid, batch) + log_prior.unsqueeze(1)
            posterior = vae.encode(batch.images, batch.labels)
            log_q = posterior.log_prob(grid.unsqueeze(1)).double()
            q = (log_q + log_cell.unsqueeze(1)).exp()
            missed = max(missed, (1 - q.sum(dim=0)).abs().max().item())
            evidence = log_joint.logsumexp(dim=0)
            coarsest = max(coarsest, (log_joint - evidence).max().exp().item())
            nll.append(-evidence)
            elbo.append(-(q * (log_joint - log_cell.unsqueeze(1) - log_q)).sum(dim=0))
            if len(maps) < _FIGURE_IMAGES:
                maps += list(zip((log_joint - evidence).T.exp(), posterior.mean, posterior.stddev, strict=True))
        if missed > _TOLERANCE:
            _log.warning(
                "evaluator.quadrature: the grid misses %.1f %% of a density; raise "
                "evaluator.quadrature.points_per_axis or evaluator.quadrature.extent.",
                100 * missed,
            )
        if coarsest > _COARSE:
            _log.warning(
                "evaluator.quadrature: %.0f %% of a true posterior lie in a single cell of the grid; raise "
                "evaluator.quadrature.points_per_axis.",
                100 * coarsest,
            )
        exact, bound = torch.cat(nll).mean().item(), torch.cat(elbo).mean().item()
        yield "quadrature_nll", exact
        yield "quadrature_negative_elbo", bound
        yield "quadrature_images", len(images)
        if bound - exact > -_ROUNDING:
            yield "posterior_kl", max(bound - exact, 0.0)
        else:
            _log.warning(
                "evaluator.quadrature: the estimate of posterior_kl is negative (%.3g) and is skipped. "
                "Raise evaluator.quadrature.extent or evaluator.quadrature.points_per_axis.",
                bound - exact,
            )
        shown = maps[:_FIGURE_IMAGES]
        shape = [self._points_per_axis] * (1 if grid.shape[1] == 1 else 2)
        yield (
            "posteriors",
            plot_true_posteriors(
                [density.reshape(shape).cpu().numpy() for density, _, _ in shown],
                [(mean.cpu().numpy(), deviation.cpu().numpy()) for _, mean, deviation in shown],
                self._extent,
            ),
        )

    def _grid(self, units: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The points of the grid, `[points, units]`, and the log volume of their cells, `[points]`."""
        count = self._points_per_axis
        axis = torch.linspace(-self._extent, self._extent, count, device=device)
        weights = torch.full((count,), 2 * self._extent / (count - 1), dtype=torch.float64, device=device)
        weights[[0, -1]] /= 2
        if units == 1:
            return axis.unsqueeze(1), weights.log()
        cells = torch.cartesian_prod(weights, weights).prod(dim=1)
        return torch.cartesian_prod(axis, axis), cells.log()


def _log_likelihood(vae: VAE, grid: Tensor, batch: Batch) -> Tensor:
    """Log p(x|z) of every image at every point, `[points, batch]`, in float64.

    Points are decoded once for all images; in a class-conditional model, once for each image's class.
    """
    per_chunk = decode_chunk_size(batch.images.numel() * outputs_per_value(vae), grid.device)
    width = len(batch) if isinstance(vae, ConditionalVAE) else 1
    chunks = [
        vae.decode(part.unsqueeze(1).expand(-1, width, -1), batch.labels).log_prob(batch.images)
        for part in grid.split(per_chunk)
    ]
    return torch.cat(chunks).double()
