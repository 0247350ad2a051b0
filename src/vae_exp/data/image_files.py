"""The image files below a folder, and their labels."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vae_exp.data.image_decoding import SUFFIXES
from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import absolute_path


def list_images(folder: Path, below: str = "") -> list[str]:
    """The image files at any depth, sorted: paths relative to `folder`, with `/`.

    Hidden files and folders are left out. Links to folders are followed, but not to one that contains them.

    Args:
        folder: What paths are relative to.
        below: The folder in it to look into; empty for itself.
    """
    files = []
    for parent, folders, names in os.walk(folder / below, followlinks=True):
        here, real = Path(parent), Path(parent).resolve()
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not real.is_relative_to((here / name).resolve())
        ]
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
    are numbered in alphabetical order.

    Args:
        file: The CSV file.
        folder: The folder of the images.

    Raises:
        UserError: if the file cannot be read, or names an image that is not there.
    """
    try:
        with absolute_path("data.labels", file).open(newline="", encoding="utf-8-sig") as text:
            rows = [row for row in csv.reader(text) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"data.labels={file} cannot be read ({error}); expected auto, none, or a CSV file of paths below "
            f"data.path and labels."
        ) from error
    if rows and not rows[0][0].lower().endswith(SUFFIXES):
        rows = rows[1:]
    for row in rows:
        if len(row) < 2:
            raise UserError(f"data.labels={file}: the row {row} has no label; expected path,label.")
    labels = {Path(row[0].strip()).as_posix(): row[1].strip() for row in rows}
    if missing := [name for name in labels if not (folder / name).is_file()]:
        raise UserError(
            f"data.labels={file} names {_examples(missing)} not below data.path={folder}; correct the paths, or "
            f"leave out the rows."
        )
    try:
        return {name: int(label) for name, label in labels.items()}, None
    except ValueError:
        classes = tuple(sorted(set(labels.values())))
        numbers = {label: number for number, label in enumerate(classes)}
        return {name: numbers[label] for name, label in labels.items()}, classes


def select_labels(labels: Mapping[str, int], files: Sequence[str], key: str) -> Tensor | None:
    """The labels of these files, `[N]`, int64; None if there are labels for none of them, as of a test split.

    Args:
        labels: By file.
        files: Of a split.
        key: What the labels come from, for messages.

    Raises:
        UserError: if there are labels for some of the files only.
    """
    missing = [file for file in files if file not in labels]
    if len(missing) == len(files):
        return None
    if missing:
        raise UserError(
            f"{key} has no row for {_examples(missing)} below data.path; add the rows, or move the files "
            f"elsewhere."
        )
    return torch.tensor([labels[file] for file in files])


def _examples(names: Sequence[str]) -> str:
    return f"{names[0]}, which is" if len(names) == 1 else f"{len(names)} files, such as {names[0]}, which are"
