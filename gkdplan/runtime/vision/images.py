"""Pictures as the numbers that a tower takes: opened within limits, prepared as the model asks."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.pictures import FORMATS, NotFetchedError, Picture, PictureError, PictureLimits
from gkdplan.runtime.data.cache.copies import Copies
from gkdplan.runtime.vision.processors import grid_of, misfit_of, prepared
from gkdplan.vision import VisionShape


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
            return replace(shown, grid=self._grid(shown, image))

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

    def _grid(self, shown: Shown, image: Image.Image) -> tuple[int, int]:
        try:
            return grid_of(self.shape, self.processor, image.height, image.width)
        except ValueError as failure:
            reason = (
                f"has {shown.picture.name} of {image.width:,} x {image.height:,} pixels, which the "
                f"image processor does not take: {failure}"
            )
            raise UserError(_unusable(shown, reason)) from failure

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
            if self._grid(shown, image) != shown.grid:
                reason = f"has {shown.picture.name}, which changed since the run began"
                raise UserError(_unusable(shown, reason))
            try:
                return image.convert("RGB")
            except Exception as failure:  # as above
                raise UserError(_unusable(shown, _undecodable(shown, failure))) from failure


def load_eyes(directory: Path, shape: VisionShape, limits: PictureLimits) -> Eyes:
    """The eyes of the model in `directory`: no network, no code of the model's.

    Raises UserError (GK488) where there is no image processor, or it prepares images in another way
    than the tower takes them.
    """
    try:
        processor = AutoImageProcessor.from_pretrained(
            directory, backend="pil", local_files_only=True, trust_remote_code=False
        )
        misfit = misfit_of(shape, processor)
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
