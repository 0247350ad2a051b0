"""The images of a split that an evaluator scores."""

import logging

from vae_exp.data.images import ImageSet

_log = logging.getLogger(__name__)
_NAMED = 10


def scored_images(key: str, images: ImageSet, num_images: int | None) -> ImageSet:
    """A random subset of a split, the same for every run on the data; a warning names classes that it lacks.

    Args:
        key: The evaluator, for the message.
        images: The split.
        num_images: How many to score; None for all.
    """
    subset = images.random_subset(num_images)
    if images.labels is not None and subset.labels is not None and subset is not images:
        missing = sorted(set(images.labels.unique().tolist()) - set(subset.labels.unique().tolist()))
        if missing:
            _log.warning(
                "evaluator.%s: the %d images scored have none of %d classes of the split (%s%s); raise "
                "evaluator.%s.num_images.",
                key,
                len(subset),
                len(missing),
                ", ".join(map(str, missing[:_NAMED])),
                ", …" if len(missing) > _NAMED else "",
                key,
            )
    return subset
