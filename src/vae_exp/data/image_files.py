"""The image files below a folder, and their labels."""

import csv
import os
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path

import torch
from torch import Tensor

from vae_exp.data.image_decoding import SUFFIXES
from vae_exp.data.images import check_int64
from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import absolute_path, open_regular

_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def split_folders(folder: Path) -> dict[str, list[str]]:
    """The folders of `train`, `val` (or `valid`, `validation`) and `test` images, in capitals or not, by split.

    Args:
        folder: The folder that they are in; none are there if it is no folder.
    """
    names: dict[str, list[str]] = {split: [] for split in _SPLITS.values()}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.lower() in _SPLITS and path.is_dir():
            names[_SPLITS[path.name.lower()]].append(path.name)
    return names


def list_images(folder: Path, below: str = "") -> list[str]:
    """The image files at any depth, sorted: paths relative to `folder`, with `/`.

    Hidden files and folders are left out. Links to folders are followed, but no folder is listed twice, and a
    link to a folder above, which has the images of other splits too, is left out.

    Args:
        folder: What paths are relative to.
        below: The folder in it to look into; empty for itself.
    """
    files = []
    starts, visited = [folder / below], {str(parent) for parent in (folder / below).resolve().parents}
    for start in starts:  # links are followed last: a folder keeps its own name
        for parent, folders, names in os.walk(start):
            here, real = Path(parent), os.path.realpath(parent)
            if real in visited:
                folders.clear()
                continue
            visited.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            starts += [here / name for name in folders if (here / name).is_symlink()]
            files += [
                (here.relative_to(folder) / name).as_posix()
                for name in names
                if name.lower().endswith(SUFFIXES) and not name.startswith(".")
            ]
    return sorted(files)


def class_folders(files: Sequence[str], split: str) -> list[str]:
    """The first folder below the split for each file; empty where a file lies in none.

    Args:
        files: As of `list_images`.
        split: The folder of the split; empty if it is the whole folder.
    """
    parts = [file.removeprefix(f"{split}/").split("/") for file in files]
    return [folders[0] if len(folders) > 1 else "" for folders in parts]


def class_labels(files: Sequence[str], names: Sequence[str], classes: Mapping[str, int], path: Path) -> Tensor:
    """The labels of files in class folders, `[N]`, int64.

    Args:
        files: Of a split.
        names: Their class folders.
        classes: The labels of the class folders of the training images.
        path: The folder of all images, for messages.

    Raises:
        UserError: if a file lies in no class folder, or in one that the training images do not have.
    """
    for file, name in zip(files, names, strict=True):
        if name not in classes:
            problem = f"in the folder {name!r}, which no training image is in" if name else "in no class folder"
            raise UserError(
                f"data.path={path}: {file} lies {problem}, so it has no label; move it, or say data.labels=none."
            )
    return torch.tensor([classes[name] for name in names])


def read_csv_labels(file: str, folder: Path) -> tuple[dict[str, int], tuple[str, ...] | None]:
    """The labels of image files from a CSV file: in each row a path below the folder, and a label.

    The second value has the names of the classes; None where the labels are integers.

    A first row that names no image file is taken for the names of the columns. Labels that are not all integers
    are numbered in alphabetical order. Paths may be absolute.

    Args:
        file: The CSV file.
        folder: The folder of the images, absolute.

    Raises:
        UserError: if the file cannot be read, if it names an image that is not there, or if a row has no label or
            another one than an earlier row.
    """
    key = f"data.labels={file}"
    rows = _read_rows(file, key)
    if rows and not rows[0][1][0].lower().endswith(SUFFIXES):
        rows = rows[1:]
    if not rows:
        raise UserError(f"{key} has no rows; expected path,label in each, such as cat/1.png,3.")
    labels: dict[str, str] = {}
    missing = []
    for line, row in rows:
        if len(row) < 2 or not row[0] or not row[1]:
            raise UserError(f"{key}, line {line}: the row {row} has no label; expected path,label.")
        path, label = Path(os.path.abspath(folder / row[0])), row[1]  # noqa: PTH100 - also resolves ..
        if not (path.is_relative_to(folder) and path.is_file()):
            missing.append(row[0])
            continue
        name = path.relative_to(folder).as_posix()
        if labels.setdefault(name, label) != label:
            raise UserError(
                f"{key}, line {line}: {name} has the label {label}, and {labels[name]} in an earlier row; leave "
                f"out one of them."
            )
    if missing:
        examples = _examples(list(dict.fromkeys(missing)))
        raise UserError(
            f"{key} names {examples} not below data.path={folder}; correct the paths, or leave out the rows."
        )
    return _to_integers(labels, key)


def _read_rows(file: str, key: str) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file that hold anything, each with the number of its first line."""
    rows, line = [], 1
    try:
        with TextIOWrapper(
            open_regular(absolute_path("data.labels", file)), encoding="utf-8-sig", newline=""
        ) as text:
            reader = csv.reader(text, strict=True)
            for row in reader:
                values = [value.strip() for value in row]
                if any(values):
                    rows.append((line, values))
                line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{key} cannot be read from line {line} on ({error}); expected path,label in each, with closed quotes."
        ) from error
    except (OSError, UnicodeDecodeError, UserError) as error:
        raise UserError(
            f"{key} cannot be read ({error}); expected auto, none, or a CSV file of paths below data.path "
            f"and labels."
        ) from error
    return rows


def _to_integers(labels: Mapping[str, str], key: str) -> tuple[dict[str, int], tuple[str, ...] | None]:
    try:
        integers = {name: int(label) for name, label in labels.items()}
    except ValueError:
        classes = tuple(sorted(set(labels.values())))
        numbers = {label: number for number, label in enumerate(classes)}
        return {name: numbers[label] for name, label in labels.items()}, classes
    for name, label in integers.items():
        check_int64(label, f"{key}, for {name},")
    return integers, None


def select_labels(
    labels: Mapping[str, int], files: Sequence[str], key: str, *, required: bool = True
) -> Tensor | None:
    """The labels of these files, `[N]`, int64.

    Args:
        labels: By file.
        files: Of a split.
        key: What the labels come from, for messages.
        required: Whether there must be labels; else None is returned if there are some for none of the files.

    Raises:
        UserError: if there are no labels for some of the files.
    """
    missing = [file for file in files if file not in labels]
    if len(missing) == len(files) and not required:
        return None
    if missing:
        raise UserError(
            f"{key} has no row for {_examples(missing)} below data.path; add the rows, or move the files "
            f"elsewhere."
        )
    return torch.tensor([labels[file] for file in files])


def _examples(names: Sequence[str]) -> str:
    return f"{names[0]}, which is" if len(names) == 1 else f"{len(names)} files, such as {names[0]}, which are"
