"""Updates of a codebook without gradients: first entries from data, moving averages, restarts of unused entries.

All but `spread_outputs` is device work alone, so that a CUDA graph can contain it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vae_exp.argument_checks import check_choice, check_optional_number

AllReduceSum = Callable[[Tensor], None]
INITS = ("uniform", "data")
OUTPUTS_PER_CODE = 32  # that the first entries are chosen from
USAGE_DECAY = 0.99  # of the average use, where the entries themselves are trained by gradient


def check_codebook_options(init: str, decay: float | None, restart_below: float | None) -> None:
    """Refuse options out of range.

    Raises:
        ArgumentError: names the key and its value.
    """
    check_choice("model.encoder.codebook_init", init, INITS)
    check_optional_number("model.encoder.codebook_decay", decay, above=0, below=1)
    check_optional_number("model.encoder.restart_below", restart_below, above=0, below=1)


def spread_outputs(outputs: Tensor, count: int) -> Tensor:
    """Choose outputs that lie far from one another: the seeds of k-means++ (Arthur & Vassilvitskii 2007).

    Args:
        outputs: `[N, code_dim]`, on the CPU.
        count: How many; where there are fewer different ones, some are chosen twice.

    Returns:
        `[count, code_dim]`; the choice follows from torch's global generator, as initial weights do.
    """
    from sklearn.cluster import kmeans_plusplus

    outputs = outputs.repeat(-(-count // len(outputs)), 1)
    centers, _ = kmeans_plusplus(outputs.numpy(), count, random_state=int(torch.randint(2**31, ())))
    return torch.from_numpy(centers)


def sum_by_code(
    outputs: Tensor, indices: Tensor, num_codes: int, all_reduce_sum: AllReduceSum
) -> tuple[Tensor, Tensor]:
    """Sum the outputs of each entry, `[codes, code_dim]`, and count them, `[codes]`, over all processes.

    Args:
        outputs: `[N, code_dim]`.
        indices: The entry of each, `[N]`.
        num_codes: Entries of the codebook.
        all_reduce_sum: Sums a tensor over all processes, in place.
    """
    counted = torch.cat([outputs, torch.ones_like(outputs[:, :1])], dim=1)
    totals = counted.new_zeros(num_codes, counted.shape[1]).index_add_(0, indices, counted)
    all_reduce_sum(totals)
    return totals[:, :-1], totals[:, -1]


def move_to_averages(codebook: Tensor, usage: Tensor, sums: Tensor, counts: Tensor, decay: float) -> None:
    """eᵢ = mᵢ / Nᵢ with mᵢ ← γ mᵢ + (1 − γ) Σⱼ zᵢⱼ in place (van den Oord et al. 2017, appendix A.1).

    Written as eᵢ + (1 − γ) (Σⱼ zᵢⱼ − nᵢ eᵢ) / Nᵢ, which needs no mᵢ and leaves an entry without outputs as it is,
    to the bit, however small its Nᵢ has become.

    Args:
        codebook: e, `[codes, code_dim]`.
        usage: N after this step, `[codes]`.
        sums: Σⱼ zᵢⱼ, `[codes, code_dim]`.
        counts: n, `[codes]`.
        decay: γ.
    """
    usage = usage.clamp(min=torch.finfo(usage.dtype).tiny)
    codebook.add_((sums - counts.unsqueeze(1) * codebook) * ((1 - decay) / usage).unsqueeze(1))


def draw_outputs(
    outputs: Tensor, first: int, total: int, count: int, generator: torch.Generator, all_reduce_sum: AllReduceSum
) -> Tensor:
    """Draw outputs of the whole batch with replacement, the same ones in every process: `[count, code_dim]`.

    Args:
        outputs: Those of this process, `[N, code_dim]`.
        first: Position of the first of them in the whole batch.
        total: Outputs of the whole batch.
        count: How many to draw.
        generator: In the same state in every process.
        all_reduce_sum: Sums a tensor over all processes, in place.
    """
    uniform = torch.rand(count, generator=generator, device=outputs.device)
    rows = (uniform * total).long().clamp(max=total - 1) - first
    is_here = ((rows >= 0) & (rows < len(outputs))).unsqueeze(1)
    candidates = torch.where(is_here, outputs[rows.clamp(0, len(outputs) - 1)], 0.0)
    all_reduce_sum(candidates)
    return candidates


def restart_codes(codebook: Tensor, usage: Tensor, candidates: Tensor, below: float) -> None:
    """Move entries that are hardly used to candidates, in place; their average use becomes even use.

    Args:
        codebook: `[codes, code_dim]`.
        usage: Average number of outputs of an entry in a step, `[codes]`.
        candidates: Where to move each entry, `[codes, code_dim]`.
        below: The share of even use below which an entry is moved.
    """
    even = usage.mean()
    is_dead = usage < below * even
    codebook.copy_(torch.where(is_dead.unsqueeze(1), candidates, codebook))
    usage.copy_(torch.where(is_dead, even, usage))
