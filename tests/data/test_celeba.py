"""CelebA from a few drawn faces, laid out as torchvision wants them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from vae_exp.data import celeba
from vae_exp.data.celeba import CelebASource
from vae_exp.errors import UserError

COUNT = 6  # three to train, one to validate, two to test


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{index:06d}.jpg" for index in range(1, COUNT + 1)]
    for index, name in enumerate(names):
        pixels = np.full((218, 178, 3), 40 * index, dtype=np.uint8)
        pixels[:35] = 255  # what is cut away
        pixels[183:] = 255
        Image.fromarray(pixels).save(folder / "img_align_celeba" / name, quality=100)
    lists = {
        "list_eval_partition.txt": [
            f"{name} {part}" for name, part in zip(names, (0, 0, 0, 1, 2, 2), strict=True)
        ],
        "identity_CelebA.txt": [f"{name} 1" for name in names],
        "list_bbox_celeba.txt": [str(COUNT), "image_id x y w h", *(f"{name} 1 2 3 4" for name in names)],
        "list_landmarks_align_celeba.txt": [str(COUNT), "a b", *(f"{name} 1 2" for name in names)],
        "list_attr_celeba.txt": [
            str(COUNT),
            "Smiling Hat",
            *(f"{name} {1 if index % 2 else -1} -1" for index, name in enumerate(names)),
        ],
    }
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(datasets.CelebA, "_check_integrity", lambda self: True)
    return tmp_path


def test_faces_are_cut_out_and_resized_and_attributes_are_the_factors(root: Path):
    images = CelebASource(str(root), 16).train()
    assert images.image_shape == [3, 16, 16]
    assert images.factors.tolist() == [[0, 0], [1, 0], [0, 0]]
    for index in range(3):
        assert (images.pixels[index].int() - 40 * index).abs().max() <= 2
    assert len(CelebASource(str(root), 16).test()) == 2


def test_images_are_decoded_once(root: Path, monkeypatch: pytest.MonkeyPatch):
    first = CelebASource(str(root), 16).train()
    assert (root / "celeba" / "celeba-train-16.npy").exists()

    def refuse(self: CelebASource, file: Path) -> None:
        raise AssertionError(file)

    monkeypatch.setattr(celeba.CelebASource, "_decode", refuse)
    assert (CelebASource(str(root), 16).train().pixels == first.pixels).all()


def test_a_face_that_cannot_be_read_is_named_and_nothing_kept(root: Path):
    (root / "celeba" / "img_align_celeba" / "000002.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"000002.jpg cannot be read"):
        CelebASource(str(root), 16).train()
    assert not list((root / "celeba").glob("*.npy"))


def test_without_its_files_it_says_where_they_come_from(tmp_path: Path):
    with pytest.raises(UserError, match=r"CelebA is not in .*list_attr_celeba.txt.*mmlab.ie.cuhk.edu.hk"):
        CelebASource(str(tmp_path), 64).train()
