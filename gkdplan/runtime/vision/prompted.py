"""The images of one prompt, each by itself, for an engine outside of Megatron's modules."""

from collections.abc import Iterator, Sequence

import torch

from gkdplan.runtime.vision.images import Eyes, Shown
from gkdplan.runtime.vision.pixels import PromptImage
from gkdplan.vision import InternVision


def images_of_prompt(
    prompt: Sequence[int], shown: Sequence[Shown], eyes: Eyes, dtype: torch.dtype
) -> Iterator[PromptImage]:
    """What a tower of `dtype` takes of each picture, prepared as it is for training.

    Raises UserError (GK485), which names the row, where a picture cannot be shown or no longer has
    as many tokens as the prompt holds of it.
    """
    place, image_token = 0, eyes.shape.image_token_id
    token_id = image_token if isinstance(eyes.shape, InternVision) else None
    for one in shown:
        place = prompt.index(image_token, place)
        values, grid_13 = eyes.pixels([one])
        yield PromptImage(values.to(dtype), place, one.num_tokens, grid_13, token_id)
        place += one.num_tokens
