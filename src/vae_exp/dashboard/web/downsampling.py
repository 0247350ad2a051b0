"""Long curves → short ones that look the same."""

import numpy as np
import numpy.typing as npt

MOST_POINTS = 2_000

Numbers = npt.NDArray[np.float64]


def downsampled(x: Numbers, y: Numbers, most: int = MOST_POINTS) -> tuple[Numbers, Numbers]:
    """At most `most` points: of every stretch the least, the greatest and, if there is one, one not finite.

    The first and the last point stay, and so do the extremes of the whole curve.

    Args:
        x: Abscissas `[N]`.
        y: Values `[N]`; NaN where the curve is broken.
        most: How many points, at least 8.
    """
    if len(y) <= most:
        return x, y
    edges = np.linspace(0, len(y), max(1, (most - 2) // 3) + 1).astype(np.int64)[:-1]
    finite = np.isfinite(y)
    kept = np.zeros(len(y), dtype=bool)
    kept[[0, -1]] = True
    stretch = np.repeat(np.arange(len(edges)), np.diff(np.append(edges, len(y))))
    for values, better in ((np.where(finite, y, np.inf), np.minimum), (np.where(finite, y, -np.inf), np.maximum)):
        extreme = better.reduceat(values, edges)
        kept[_firsts(finite & (values == extreme[stretch]), stretch)] = True
    kept[_firsts(~finite, stretch)] = True
    return x[kept], y[kept]


def _firsts(chosen: npt.NDArray[np.bool_], stretch: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Of every stretch the first place that was chosen."""
    places = np.flatnonzero(chosen)
    _, first = np.unique(stretch[places], return_index=True)
    return places[first]
