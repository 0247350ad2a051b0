"""Names of runs and of the jobs of a sweep: the overrides in which they differ, under short keys."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from vae_exp.configuration.overrides import override_key, overrides_by_key
from vae_exp.configuration.resolvers import EXCLUDED_KEYS, NOT_PART_OF_IDENTITY

_MOST_CHARACTERS = 120


def is_excluded_key(key: str) -> bool:
    """Whether a key does not identify a job."""
    return key.partition(".")[0] in NOT_PART_OF_IDENTITY or key in EXCLUDED_KEYS


def identifying_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides of a job that affect its result."""
    return [override for override in overrides if not is_excluded_key(override_key(override))]


def identifying_values(overrides: Sequence[str]) -> dict[str, str]:
    """The values of the overrides of a job that affect its result, by key."""
    return overrides_by_key(identifying_overrides(overrides))


def swept_keys(jobs: Iterable[Mapping[str, str]], searched: Collection[str] = ()) -> list[str]:
    """The keys that name the jobs of a sweep, in the order of their first appearance.

    Args:
        jobs: The values of all jobs of the sweep, by key.
        searched: Keys that have several values, whichever the jobs so far have.
    """
    jobs = list(jobs)
    values: dict[str, Counter[str]] = {key: Counter() for job in jobs for key in job}
    for job in jobs:
        for key, value in job.items():
            values[key][value] += 1
    return [
        key for key, counts in values.items() if key in searched or len(counts) > 1 or counts.total() < len(jobs)
    ]


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Keys without their group: `latent_dim`, `decoder.hidden_dims`; with it where they would be equal."""
    paths = {key: re.sub("[./]+", ".", key.partition("@")[2] or key) for key in keys}
    shorts = {key: path.partition(".")[2] or path for key, path in paths.items()}
    counts = Counter(shorts.values())
    return {key: short if counts[short] == 1 else paths[key] for key, short in shorts.items()}


def job_label(values: Mapping[str, str], swept: Collection[str]) -> str:
    """A job beside those of its sweep: `latent_dim=2 seed=0`; `default` where it sets none of the swept keys.

    Args:
        values: Of its overrides, by key.
        swept: The keys that name it; all of its own where there are none.
    """
    shorts = short_keys(swept or values)
    return " ".join(f"{short}={values[key]}" for key, short in shorts.items() if key in values) or "default"


def file_name(values: Mapping[str, str], swept: Collection[str]) -> str:
    """A job beside those of its sweep as part of a file name: `latent_dim-2_hidden_dims-400-200_seed-0`.

    Only letters, digits and `.-_` occur, so that the name can be pasted into an override or a shell; names
    longer than a file system likes are cut, the hash beside them keeps them apart. `Args` as of `job_label`.
    """
    shorts = short_keys(swept or values)
    parts = [
        f"{shorts[key]}-{_last_part(value)}" if value else shorts[key]
        for key, value in values.items()
        if key in shorts
    ]
    name = re.sub(r"[^A-Za-z0-9._]+", "-", "_".join(parts).replace("e+", "e")).replace("-_", "_")
    return name[:_MOST_CHARACTERS].strip("-_.") or "default"


def _last_part(value: str) -> str:
    """The name of a file or folder without the folders above it, other values as they are."""
    path = value.strip("'\"").rstrip("/")
    return path.rpartition("/")[2] if path.startswith(("/", "./", "../", "~")) else value
