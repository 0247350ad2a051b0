from pathlib import Path

import pytest

from vae_exp.data.image_files import class_folders, list_images, read_csv_labels, select_labels
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
    ],
)
def test_labels_of_a_csv_file(text: str, labels: dict, classes: tuple | None, tmp_path: Path):
    touch(tmp_path, "a/1.png", "2.png")
    (tmp_path / "labels.csv").write_text(text)
    assert read_csv_labels(str(tmp_path / "labels.csv"), tmp_path) == (labels, classes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/1.png,1\nb/1.png,2\n", r"names b/1\.png, which is not below data\.path="),
        ("x.png,1\ny.png,2\n", r"names 2 files, such as x\.png, which are not below data\.path="),
        ("a/1.png\n", r"the row \['a/1\.png'\] has no label; expected path,label"),
        (None, r"cannot be read .*; expected auto, none, or a CSV file"),
        (b"\xff\xfe\x00", r"cannot be read .*; expected auto, none, or a CSV file"),
    ],
)
def test_a_csv_file_that_cannot_be_used_is_refused(text, message: str, tmp_path: Path):
    touch(tmp_path, "a/1.png")
    if text is not None:
        (tmp_path / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=rf"data\.labels=.*labels\.csv:? {message}"):
        read_csv_labels(str(tmp_path / "labels.csv"), tmp_path)


def test_labels_for_some_images_only_are_refused_and_for_none_left_out():
    labels = {"a.png": 3, "b.png": 4}
    assert select_labels(labels, ["b.png", "a.png"], "data.labels=x").tolist() == [4, 3]
    assert select_labels(labels, ["test/c.png"], "data.labels=x") is None
    with pytest.raises(UserError, match=r"data\.labels=x has no row for c\.png, which is below data\.path; add"):
        select_labels(labels, ["a.png", "c.png"], "data.labels=x")
