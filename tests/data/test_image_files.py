import os
from pathlib import Path

import pytest

from vae_exp.data.image_files import class_folders, list_images, read_csv_labels, select_labels, split_folders
from vae_exp.errors import UserError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_images_are_listed_at_any_depth_without_hidden_ones(tmp_path: Path):
    images = ["a/b/c/3.TIF", "a/1.png", "b/2.JPeG", "top.webp", "ä ö/5.jpg"]
    touch(tmp_path, *images, "a/notes.txt", "a/.hidden.png", ".git/6.png", "a/._1.png", "b/7.png.bak")
    assert list_images(tmp_path) == sorted(images)
    assert list_images(tmp_path, "a") == ["a/1.png", "a/b/c/3.TIF"]


def test_links_to_folders_are_followed_once(tmp_path: Path):
    touch(tmp_path, "elsewhere/1.png", "images/2.png")
    (tmp_path / "images/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images/loop").symlink_to(tmp_path / "images")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path)
    assert list_images(tmp_path / "images") == ["2.png", "linked/1.png"]


def test_a_link_to_a_folder_above_does_not_list_other_splits(tmp_path: Path):
    touch(tmp_path, "train/a/1.png", "test/a/2.png")
    (tmp_path / "train/up").symlink_to("..")
    (tmp_path / "train/a/far_up").symlink_to(tmp_path.parent)
    assert list_images(tmp_path, "train") == ["train/a/1.png"]


def test_no_folder_is_listed_twice(tmp_path: Path):
    touch(tmp_path, "a/1.png", "b/2.png", ".store/3.png")
    (tmp_path / "a/to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b/to_a").symlink_to(tmp_path / "a")
    (tmp_path / "again").symlink_to(tmp_path / "b")
    (tmp_path / "hidden").symlink_to(tmp_path / ".store")
    assert list_images(tmp_path) == ["a/1.png", "b/2.png", "hidden/3.png"]


def test_folders_of_splits_in_any_case(tmp_path: Path):
    touch(tmp_path, "Train/1.png", "VALID/2.png", "val/2.png", "tests/3.png", "test")
    assert split_folders(tmp_path) == {"train": ["Train"], "val": ["VALID", "val"], "test": []}
    assert split_folders(tmp_path / "none") == {"train": [], "val": [], "test": []}


def test_the_class_is_the_first_folder_below_the_split():
    assert class_folders(["train/a/b/1.png", "train/2.png", "train/b/3.png"], "train") == ["a", "", "b"]
    assert class_folders(["a/b/1.png", "2.png"], "") == ["a", ""]


@pytest.mark.parametrize(
    ("text", "labels", "classes"),
    [
        ("file,label\na/1.png,7\n2.png,-1\n", {"a/1.png": 7, "2.png": -1}, None),
        ("a/1.png,dog\n./2.png, cat\n\n", {"a/1.png": 1, "2.png": 0}, ("cat", "dog")),
        ("\ufeffid,breed,age\n2.png,10,x\na/1.png,9b,y\n", {"2.png": 0, "a/1.png": 1}, ("10", "9b")),
        ('"a/1.png","1"\n', {"a/1.png": 1}, None),
        ("a/../a/1.png , 4\na/1.png,4\n", {"a/1.png": 4}, None),
        ("FOLDER/a/1.png,4\nFOLDER/2.png,5\n", {"a/1.png": 4, "2.png": 5}, None),
    ],
)
def test_labels_of_a_csv_file(text: str, labels: dict, classes: tuple | None, tmp_path: Path):
    touch(tmp_path, "a/1.png", "2.png")
    (tmp_path / "labels.csv").write_text(text.replace("FOLDER", str(tmp_path)))
    assert read_csv_labels(str(tmp_path / "labels.csv"), tmp_path) == (labels, classes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/1.png,1\nb/1.png,2\n", r"names b/1\.png, which is not below data\.path="),
        ("x.png,1\ny.png,2\n", r"names 2 files, such as x\.png, which are not below data\.path="),
        ("/etc/1.png,1\n../labels.csv,1\n", r"names 2 files, such as /etc/1\.png, which are not below"),
        ("a/1.png\n", r"line 1: the row \['a/1\.png'\] has no label; expected path,label"),
        ("path,label\na/1.png,\n", r"line 2: the row \['a/1\.png', ''\] has no label; expected path,label"),
        ("", r"has no rows; expected path,label"),
        ("path,label\n", r"has no rows; expected path,label"),
        (
            'path,label\n"a/1.png,1\n',
            r"cannot be read from line 2 on \(.*\); expected path,label .* closed quotes",
        ),
        ("a/1.png,1\n./a/1.png,2\n", r"line 2: a/1\.png has the label 2, and 1 in an earlier row; leave out one"),
        ("a/1.png,9223372036854775808\n", r"for a/1\.png, holds 9223372036854775808; expected integers from"),
        (None, r"cannot be read .*; expected auto, none, or a CSV file"),
        (b"\xff\xfe\x00", r"cannot be read .*; expected auto, none, or a CSV file"),
    ],
)
def test_a_csv_file_that_cannot_be_used_is_refused(text, message: str, tmp_path: Path):
    touch(tmp_path, "a/1.png")
    if text is not None:
        (tmp_path / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=rf"data\.labels=.*labels\.csv,? {message}"):
        read_csv_labels(str(tmp_path / "labels.csv"), tmp_path)


def test_labels_are_read_from_regular_files_alone(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match=r"data\.labels=.* cannot be read \(.* is not a regular file"):
            read_csv_labels(str(path), tmp_path)


def test_labels_for_some_images_only_are_refused_and_for_none_left_out():
    labels = {"a.png": 3, "b.png": 4}
    assert select_labels(labels, ["b.png", "a.png"], "data.labels=x").tolist() == [4, 3]
    assert select_labels(labels, ["test/c.png"], "data.labels=x", required=False) is None
    with pytest.raises(UserError, match=r"data\.labels=x has no row for c\.png"):
        select_labels(labels, ["c.png"], "data.labels=x")
    with pytest.raises(UserError, match=r"data\.labels=x has no row for c\.png, which is below data\.path; add"):
        select_labels(labels, ["a.png", "c.png"], "data.labels=x")
