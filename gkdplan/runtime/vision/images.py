"""Pictures as the numbers that a tower takes: opened within limits, prepared as the model asks."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from transformers import AutoImageProcessor

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.pictures import FORMATS, NotFetchedError, Picture, PictureError, PictureLimits
from gkdplan.runtime.data.cache.copies import Copies
from gkdplan.runtime.vision.processors import grid_of, misfit_of, num_pixels_of, prepared
from gkdplan.vision import VisionShape

ALWAYS_MADE = 2**24
"""Pixels that an image may be resized to whatever a plan says: what the largest models make."""
ON_ITS_SIDE = (5, 6, 7, 8)
"""Orientations of EXIF by which rows and columns change places."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture, and the row that shows it: its place, and the key of the plan that names the
    file. `grid` are the rows and columns of its tokens, where it was measured."""

    picture: Picture
    location: str
    key: str
    grid: tuple[int, int] = (0, 0)

    @property
    def num_tokens(self) -> int:
        """What it takes of a sequence."""
        return prod(self.grid)


@dataclass(frozen=True, slots=True)
class Eyes:
    """How a model sees: its image processor, of transformers on PIL, its limits, and the copies of
    what addresses gave. On a rank without the tower they are not open: they know where images stand
    and look at none."""

    shape: VisionShape
    processor: Any
    limits: PictureLimits
    are_open: bool = True
    copies: Copies | None = None

    @property
    def closed(self) -> "Eyes":
        """Those of a rank without the tower."""
        return replace(self, are_open=False)

    def measured(self, shown: Shown) -> Shown:
        """With its grid, for which its file's header is read, or that of its copy.

        Raises UserError (GK485) where it cannot be opened, has too many pixels, or a form that the
        image processor takes none of; GK497 where its address has no copy.
        """
        if self.copies is not None:
            shown = replace(shown, picture=self.copies.of(shown.picture))
        with self._open(shown) as image:
            return replace(shown, grid=self._grid(shown, _size(shown, image)))

    def pixels(self, all_shown: Sequence[Shown]) -> tuple[Tensor, Tensor | None]:
        """What the tower takes of all pictures: numbers, float32, and, where pictures differ by
        them, their frames, rows and columns of patches, int64. Raises UserError (GK485)."""
        images = [self._decoded(shown) for shown in all_shown]
        made = prepared(self.shape, self.processor, images)
        return made["pixel_values"].float(), made.get("image_grid_thw")

    def content(self, shown: Shown) -> bytes:
        """The bytes of the picture's file. Raises UserError (GK485, or GK497 where its address has
        no copy)."""
        try:
            return shown.picture.read(self.limits)
        except NotFetchedError as failure:
            raise UserError(_not_fetched(shown, str(failure))) from None
        except PictureError as failure:
            raise UserError(_unusable(shown, str(failure))) from None

    def _grid(self, shown: Shown, size: tuple[int, int]) -> tuple[int, int]:
        """Of an image of so many rows and columns of pixels."""
        height, width = size
        try:
            grid = grid_of(self.shape, self.processor, height, width)
            made = num_pixels_of(self.shape, self.processor, height, width)
            if made > _most_made(self.limits):
                raise ValueError(f"it would make {made:,} pixels of it")
        except ValueError as failure:
            reason = (
                f"has {shown.picture.name} of {width:,} x {height:,} pixels, which the image "
                f"processor does not take: {failure}"
            )
            raise UserError(_unusable(shown, reason)) from failure
        return grid

    def _open(self, shown: Shown) -> Image.Image:
        content = self.content(shown)
        try:
            with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
                image = Image.open(io.BytesIO(content), formats=FORMATS)
        except Exception as failure:  # a decoder of hostile bytes may raise anything
            raise UserError(_unusable(shown, _undecodable(shown, failure))) from failure
        num_pixels = image.width * image.height
        if num_pixels > self.limits.num_pixels:
            reason = (
                f"has {shown.picture.name} of {image.width:,} x {image.height:,} pixels, and "
                f"`data.max_image_pixels` is {self.limits.num_pixels:,}"
            )
            raise UserError(_unusable(shown, reason))
        return image

    def _decoded(self, shown: Shown) -> Image.Image:
        with self._open(shown) as image:
            if self._grid(shown, _size(shown, image)) != shown.grid:
                raise UserError(_unusable(shown, _changed(shown)))
            try:
                upright = ImageOps.exif_transpose(image).convert("RGB")
            except Exception as failure:  # as above
                raise UserError(_unusable(shown, _undecodable(shown, failure))) from failure
        if self._grid(shown, (upright.height, upright.width)) != shown.grid:
            raise UserError(_unusable(shown, _changed(shown)))
        return upright


def _most_made(limits: PictureLimits) -> int:
    """Pixels that an image may be resized to, all its tiles together."""
    return max(limits.num_pixels, ALWAYS_MADE)


def _size(shown: Shown, image: Image.Image) -> tuple[int, int]:
    """Rows and columns of an image as it is shown: its header may say that it lies on its side.
    What a PNG has behind its pixels is not looked for."""
    has_none = image.format == "PNG" and "exif" not in image.info
    try:
        orientation = None if has_none else image.getexif().get(ExifTags.Base.Orientation)
    except Exception as failure:  # a parser of hostile bytes may raise anything
        raise UserError(_unusable(shown, _undecodable(shown, failure))) from failure
    lies = orientation in ON_ITS_SIDE
    return (image.width, image.height) if lies else (image.height, image.width)


def load_eyes(directory: Path, shape: VisionShape, limits: PictureLimits) -> Eyes:
    """The eyes of the model in `directory`: no network, no code of the model's.

    Raises UserError (GK488) where there is no image processor, or it prepares images in another way
    than the tower takes them.
    """
    try:
        processor = AutoImageProcessor.from_pretrained(
            directory, backend="pil", local_files_only=True, trust_remote_code=False
        )
        misfit = misfit_of(shape, processor, _most_made(limits))
    except Exception as failure:
        raise UserError(_no_processor(directory, " ".join(str(failure).split()))) from failure
    if misfit is not None:
        raise UserError(_no_processor(directory, misfit))
    return Eyes(shape, processor, limits)


def require_alike(student: Eyes, teacher: Eyes) -> None:
    """Raise UserError (GK131) where the two prepare a picture in different ways."""
    settings, others = student.processor.to_dict(), teacher.processor.to_dict()
    unlike = sorted(k for k in settings | others if settings.get(k) != others.get(k))
    if unlike:
        raise UserError(
            error(
                "GK131",
                "teacher and student prepare images in different ways",
                "teacher.model",
                label="images are prepared once, as the student's processor says",
                notes=tuple(
                    f"{key}: {settings.get(key)} in the student, {others.get(key)} in the teacher"
                    for key in unlike
                ),
                help=("take a teacher whose preprocessor_config.json is the student's",),
            )
        )


def _changed(shown: Shown) -> str:
    return f"has {shown.picture.name}, which changed since the run began"


def _undecodable(shown: Shown, failure: Exception) -> str:
    return f"has {shown.picture.name}, which cannot be decoded: {' '.join(str(failure).split())}"


def _unusable(shown: Shown, reason: str) -> Diagnostic:
    return error(
        "GK485",
        f"the row at `{shown.location}` {reason}",
        shown.key,
        help=("give the row an image that can be shown, or leave it out",),
    )


def _not_fetched(shown: Shown, reason: str) -> Diagnostic:
    return error(
        "GK497",
        f"the row at `{shown.location}` {reason}",
        shown.key,
        help=(
            "a run fetches it before its first step, `gkdplan check --data --fetch` before that",
        ),
    )


def _no_processor(directory: Path, reason: str) -> Diagnostic:
    return error(
        "GK488",
        f"no image processor for the tower is in `{directory}`",
        notes=(reason,),
        help=("put the model's preprocessor_config.json beside its config.json",),
    )
