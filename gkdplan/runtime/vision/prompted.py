"""The images of one prompt, each by itself, for an engine outside of Megatron's modules."""

from collections.abc import Iterator, Sequence

import torch

from gkdplan.runtime.vision.images import Eyes, Shown
from gkdplan.runtime.vision.pixels import PromptImage


def images_of_prompt(
    prompt: Sequence[int], shown: Sequence[Shown], eyes: Eyes, dtype: torch.dtype
) -> Iterator[PromptImage]:
    """What a tower of `dtype` takes of each picture, prepared as it is for training.

    Raises UserError (GK485), which names the row, where a picture cannot be shown or no longer has
    as many tokens as the prompt holds of it.
    """
    place = 0
    for one in shown:
        place = prompt.index(eyes.shape.image_token_id, place)
        values, grid_13 = eyes.pixels([one])
        yield PromptImage(values.to(dtype), grid_13, place, one.num_tokens)
        place += one.num_tokens
