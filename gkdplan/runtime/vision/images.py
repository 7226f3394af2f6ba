"""Pictures as the numbers that a tower takes: opened within limits, prepared as the model asks."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.pictures import FORMATS, Picture, PictureError, PictureLimits
from gkdplan.vision import ClipVision


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture, and the row that shows it: its place, and the key of the plan that names the
    file."""

    picture: Picture
    location: str
    key: str


@dataclass(frozen=True, slots=True)
class Eyes:
    """How a model sees: its image processor, of transformers on PIL, and its limits."""

    shape: ClipVision
    processor: Any
    limits: PictureLimits

    def num_tokens(self, shown: Shown) -> int:
        """What the picture takes of a sequence; its file's header is read.

        Raises UserError (GK485) where it cannot be opened or has too many pixels.
        """
        self._open(shown).close()
        return self.shape.tokens_per_image

    def pixels(self, all_shown: Sequence[Shown]) -> Tensor:
        """What the tower takes of all pictures, float32. Raises UserError (GK485)."""
        images = [self._decoded(shown) for shown in all_shown]
        values: Tensor = self.processor(images=images, return_tensors="pt")["pixel_values"]
        return values.float()

    def _open(self, shown: Shown) -> Image.Image:
        try:
            content = shown.picture.read(self.limits)
            with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
                image = Image.open(io.BytesIO(content), formats=FORMATS)
        except PictureError as failure:
            raise UserError(_unusable(shown, str(failure))) from None
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
            try:
                return image.convert("RGB")
            except Exception as failure:  # as above
                raise UserError(_unusable(shown, _undecodable(shown, failure))) from failure


def load_eyes(directory: Path, shape: ClipVision, limits: PictureLimits) -> Eyes:
    """The eyes of the model in `directory`: no network, no code of the model's.

    Raises UserError (GK488) where there is no image processor, or it prepares images of another
    size than the tower takes.
    """
    try:
        processor = AutoImageProcessor.from_pretrained(
            directory, backend="pil", local_files_only=True, trust_remote_code=False
        )
        blank = processor(images=[Image.new("RGB", (40, 30))], return_tensors="pt")["pixel_values"]
    except Exception as failure:
        raise UserError(_no_processor(directory, " ".join(str(failure).split()))) from failure
    expected = (1, 3, shape.image_size, shape.image_size)
    if tuple(blank.shape) != expected:
        reason = f"it makes {list(blank.shape)} of an image, and the tower takes {list(expected)}"
        raise UserError(_no_processor(directory, reason))
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


def _no_processor(directory: Path, reason: str) -> Diagnostic:
    return error(
        "GK488",
        f"no image processor for the tower is in `{directory}`",
        notes=(reason,),
        help=("put the model's preprocessor_config.json beside its config.json",),
    )
