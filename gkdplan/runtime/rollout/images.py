"""Prompts as vLLM 0.32 takes them past its own processors: tokens, and images that are pixels.

Nothing is expanded or prepared by vLLM, so that it reads no file and fetches nothing, the prompt is
the one that is learnt from, and the pixels are those that the trainer's tower sees.
"""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import torch

from gkdplan.runtime.rollout.engine import NamedTensor, Request
from gkdplan.runtime.vision.pixels import PromptImage
from gkdplan.vision import ClipVision, InternVision, PatchedVision, VisionShape, name_on_disk

MODALITY = "image"


def options_for_images(
    vision: VisionShape | None, max_images: int, image_tokens: int
) -> dict[str, Any]:
    """What an engine is started with so that it sees `max_images` of a prompt, of at most
    `image_tokens` tokens each: no other medium, no cache of what its processors made, which are
    never asked, and pixels that are scaled already."""
    if vision is None:
        return {}
    options: dict[str, Any] = {
        "limit_mm_per_prompt": {MODALITY: max_images, "video": 0},
        "mm_processor_cache_gb": 0,
        "mm_device_do_normalize": False,
        "skip_mm_profiling": True,
    }
    if isinstance(vision, InternVision):
        tiles = image_tokens // vision.tokens_per_tile
        options["mm_processor_kwargs"] = {"crop_to_patches": True, "max_patches": max(1, tiles - 1)}
    if isinstance(vision, PatchedVision):
        pixels = image_tokens * (vision.patch_size * vision.merge_size) ** 2
        options["mm_processor_kwargs"] = {"max_pixels": pixels}
    return options


def under_names_of_vllm(
    vision: VisionShape | None, tensors: Iterator[NamedTensor]
) -> Iterator[NamedTensor]:
    """`tensors` as vLLM's loader of checkpoints knows them."""
    return ((name_in_vllm(vision, name), tensor) for name, tensor in tensors)


def name_in_vllm(vision: VisionShape | None, name: str) -> str:
    """That of a checkpoint; CLIP's are still named as transformers 4 wrote them
    (vllm/model_executor/models/clip.py)."""
    if isinstance(vision, ClipVision):
        return vision.earlier_name_on_disk(name)
    return name_on_disk(vision, name)


def engine_input(request: Request) -> Mapping[str, Any]:
    """A request for `LLMEngine.add_request`."""
    from vllm.inputs.engine import mm_input, tokens_input
    from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange

    prompt, images = list(request.prompt), request.images
    if not images:
        return tokens_input(prompt)
    places = [PlaceholderRange(offset=one.place, length=one.num_tokens) for one in images]
    return mm_input(
        prompt,
        MultiModalKwargsItems({MODALITY: [_item(one) for one in images]}),
        {MODALITY: [_digest(one) for one in images]},
        {MODALITY: places},
    )


def features(images: Sequence[PromptImage]) -> dict[str, Any]:
    """The images of a prompt for a server's /inference/v1/generate
    (vllm/entrypoints/scale_out/token_in_token_out/protocol.py, MultiModalFeatures)."""
    from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import encode_mm_kwargs_item

    places = [{"offset": one.place, "length": one.num_tokens} for one in images]
    return {
        "mm_hashes": {MODALITY: [_digest(one) for one in images]},
        "mm_placeholders": {MODALITY: places},
        "kwargs_data": {MODALITY: [encode_mm_kwargs_item(_item(one)) for one in images]},
    }


def _item(image: PromptImage) -> Any:
    """The arguments of a model's `embed_multimodal`, of one image."""
    from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems

    num_values = torch.tensor([len(image.values)])
    of_any_size = MultiModalFieldConfig.flat_from_sizes(MODALITY, num_values)
    on_cpu = MultiModalFieldConfig.batched(MODALITY, keep_on_cpu=True)
    tensors, fields = {"pixel_values": image.values}, {"pixel_values": of_any_size}
    if image.grid_13 is not None:
        tensors["image_grid_thw"], fields["image_grid_thw"] = image.grid_13, on_cpu
    elif image.token_id is not None:
        tensors["image_num_patches"], fields["image_num_patches"] = num_values, on_cpu
        tensors["image_token_id"] = torch.tensor(image.token_id)
        fields["image_token_id"] = MultiModalFieldConfig.shared(MODALITY, 1, keep_on_cpu=True)
    else:
        fields["pixel_values"] = MultiModalFieldConfig.batched(MODALITY)
    (item,) = MultiModalKwargsItems.from_hf_inputs(tensors, fields)[MODALITY]
    return item


def _digest(image: PromptImage) -> str:
    """Of what vLLM keeps the features of one image by."""
    grid = None if image.grid_13 is None else image.grid_13.tolist()
    content = image.values.contiguous().view(torch.uint8).numpy().tobytes()
    return sha256(f"{grid}{tuple(image.values.shape)}".encode() + content).hexdigest()
