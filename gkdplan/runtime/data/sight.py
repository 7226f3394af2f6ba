"""What models look at of the prompts of examples, each as its engine takes it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gkdplan.runtime.data.batch import Row, collate
from gkdplan.runtime.data.examples import Example
from gkdplan.runtime.vision.images import Eyes
from gkdplan.runtime.vision.pixels import Pixels, PromptImage
from gkdplan.runtime.vision.positions import positions_of
from gkdplan.runtime.vision.prompted import images_of_prompt


def pixels_of(
    examples: Sequence[Example], eyes: Eyes | None, device: torch.device
) -> Pixels | None:
    """What a tower takes of the examples' images, which stand in their prompts as if these were one
    sequence; None where there are no images, or no open eyes."""
    if eyes is None or not eyes.are_open:
        return None
    tokens = [token for example in examples for token in example.prompt]
    shown = tuple(one for example in examples for one in example.shown)
    pixels = collate([Row(tokens, (), shown)], pad_id=0, eyes=eyes).sight.pixels
    return None if pixels is None else pixels.to(device)


def positions_of_prompts(examples: Sequence[Example], eyes: Eyes | None) -> list[Tensor] | None:
    """Where the tokens of each prompt stand, [3, tokens], in models whose images have rows and
    columns."""
    if eyes is None or eyes.shape.num_position_axes == 1:
        return None
    return [positions_of(e.prompt, e.shown, eyes.shape.image_token_id) for e in examples]


def images_of(example: Example, eyes: Eyes | None, dtype: torch.dtype) -> tuple[PromptImage, ...]:
    """What an engine outside of Megatron's modules takes of the example's images, for a tower of
    `dtype`."""
    if not example.shown:
        return ()
    assert eyes is not None, "text models have no rows with images"
    return tuple(images_of_prompt(example.prompt, example.shown, eyes, dtype))
