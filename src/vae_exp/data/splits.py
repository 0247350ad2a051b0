"""Train, validation and test splits: validation is held out from train, test is opened only on access."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

import torch

from vae_exp.data.augmentation import check_augmentations
from vae_exp.data.fingerprint import fingerprint
from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError, user_code_location

SPLITS = ("train", "val", "test")
_VAL, _TEST = 1, 2  # added to the seed: no two splits share their draws


class NoTestImagesError(UserError):
    """A source has no test images; the message says where they are missing, without a full stop."""


class Source(Protocol):
    """The official training and test images of a data set, each read when called.

    A method `val` is optional: official validation images, or None where there are none.
    """

    def train(self) -> ImageSet:
        """All official training images."""
        ...

    def test(self) -> ImageSet:
        """All official test images.

        Raises:
            NoTestImagesError: where there are none; the caller adds which split there is.
        """
        ...


class DataSplits:
    """The three splits of a source.

    Args:
        source: The images.
        image_shape: `[channels, height, width]` that the images must have; None takes what the source has.
        validation_size: How many training images are held out for validation; may be zero.
        split_seed: Selects which ones.
        binarization: `none` leaves grey values; `fixed` draws every pixel once, black or white with its grey value
            as probability; `dynamic` draws the training images in every step, the others once.
        binarization_seed: Seeds the draws of `fixed`, and of `dynamic` outside training.
        augment: Names of augmentations of the training images.

    Raises:
        UserError: when the images are opened, if they are not of `image_shape` or too few.
    """

    def __init__(
        self,
        source: Source,
        image_shape: Sequence[int] | None,
        validation_size: int,
        split_seed: int,
        binarization: str = "none",
        binarization_seed: int = 0,
        augment: Sequence[str] = (),
    ) -> None:
        check_augmentations(augment)
        self._source = source
        self._image_shape = None if image_shape is None else list(image_shape)
        self._validation_size = validation_size
        self._split_seed = split_seed
        self._binarization = binarization
        self._binarization_seed = binarization_seed
        self._augment = tuple(augment)

    @property
    def image_shape(self) -> list[int]:
        """`[channels, height, width]`; opens the training images where the config does not say."""
        return self._image_shape or self.train.image_shape

    @property
    def train(self) -> ImageSet:
        """The training images that are not held out."""
        train = self._train_val[0]
        if self._augment:
            train = replace(train, augment=self._augment)
        is_dynamic = self._binarization == "dynamic"
        return replace(train, binarization_seed=self._binarization_seed) if is_dynamic else train

    @property
    def val(self) -> ImageSet:
        """The held-out training images; may be empty."""
        return self._train_val[1]

    @property
    def fingerprints(self) -> dict[str, dict[str, Any]]:
        """What identifies the images of `train` and `val`, before binarisation."""
        return self._train_val[2]

    @cached_property
    def test(self) -> ImageSet:
        """The official test images; training never opens them.

        Raises:
            UserError: if there are none; it names a split that there is.
        """
        try:
            images = self._check_image_shape(self._open("test"), "test")
        except NoTestImagesError as error:
            split = "val" if len(self.val) else "train"
            hint = (
                "" if split == "val" else "; training with data.validation_size=N holds N images out for split=val"
            )
            raise UserError(f"{error}: use split={split}, in Python run.data.{split}{hint}.") from error
        return images if self._binarization == "none" else images.binarize(self._binarization_seed + _TEST)

    def get_split(self, name: str) -> ImageSet:
        """Open a split as it is scored.

        Raises:
            UserError: if there is no such split, or if it is empty.
        """
        if name not in SPLITS:
            raise UserError(f"split={name} is not known; use one of {', '.join(SPLITS)}.")
        images: ImageSet = getattr(self, name).with_fixed_binarization()
        if not len(images):
            raise UserError(
                f"split={name} is empty: data.validation_size=0 holds out no images; use split=train, or train "
                f"with data.validation_size=N, which holds out N."
            )
        return images

    @cached_property
    def _train_val(self) -> tuple[ImageSet, ImageSet, dict[str, dict[str, Any]]]:
        """Both splits and their fingerprints; pixels that are drawn once are drawn here."""
        train, val = self._grey_train_val()
        fingerprints = {"train": fingerprint(train), "val": fingerprint(val)}
        if self._binarization != "none":
            val = val.binarize(self._binarization_seed + _VAL)
        if self._binarization == "fixed":
            train = train.binarize(self._binarization_seed)
        return train, val, fingerprints

    def _grey_train_val(self) -> tuple[ImageSet, ImageSet]:
        images = self._check_image_shape(self._open("train"), "training")
        if hasattr(self._source, "val") and (val := self._open("val")) is not None:
            if self._validation_size:
                raise UserError(
                    f"data.validation_size={self._validation_size} must be 0 here: the data have {len(val)} "
                    f"validation images of their own."
                )
            if val.image_shape != images.image_shape:
                raise UserError(
                    f"the validation images are {val.image_shape} and the training images {images.image_shape} "
                    f"([channels, height, width]); image files are brought to one shape by data.channels and "
                    f"data.size."
                )
            return images, self._check_image_shape(val, "validation")
        if self._validation_size >= len(images):
            raise UserError(
                f"data.validation_size={self._validation_size} leaves no image to train on: "
                f"there are {len(images)} training images; hold out fewer, and set trainer.batch_size to at most "
                f"those that are left."
            )
        if self._validation_size == 0:
            return images, images.take(0)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self._split_seed))
        held_out = order[: self._validation_size].sort().values
        retained = order[self._validation_size :].sort().values
        return images.subset(retained), images.subset(held_out)

    def _open(self, split: str) -> Any:
        try:
            return getattr(self._source, split)()
        except (Exception, SystemExit) as error:  # which would end the run without a message
            location = user_code_location(error)
            if isinstance(error, UserError) or not location:
                raise
            raise UserError(
                f"data.source ({type(self._source).__name__}) fails: {type(error).__name__}: {error}{location}; "
                f"HYDRA_FULL_ERROR=1 shows the traceback."
            ) from error

    def _check_image_shape(self, images: ImageSet, split: str) -> ImageSet:
        if self._image_shape is not None and images.image_shape != self._image_shape:
            raise UserError(
                f"data.image_shape={self._image_shape} does not fit the {split} images, "
                f"which are {images.image_shape} ([channels, height, width])."
            )
        return images
