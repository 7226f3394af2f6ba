"""What a small model that sees has beside its decoder: config, tokens of images, processor, and
rows that show images."""

import base64
import io
import json
import random
from collections.abc import Mapping
from typing import Any, assert_never

from PIL import Image
from transformers import CLIPImageProcessorPil, GotOcr2ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from gkdplan.families import internvl, llava, qwen3_vl, qwen3_vl_moe, qwen_vl
from gkdplan.shape import ModelShape
from gkdplan.vision import (
    ClipVision,
    InternVision,
    PatchedVision,
    Qwen3Vision,
    QwenVision,
    VisionShape,
)

FIRST, IMAGE, LAST = IMAGE_TOKENS = ("<|first|>", "<|image|>", "<|last|>")
"""Before, of and after an image; their ids follow those of bytes."""
END_ID = 0
"""Of the token that ends a text."""
MOST_TILES = 2
SIZES = ((16, 16), (40, 18), (24, 32))
"""Width and height of images."""


def config_of(shape: ModelShape, vision: VisionShape, decoder: Mapping[str, Any]) -> dict[str, Any]:
    """The keys by which transformers, and this project's facts, know the whole model again;
    `decoder` has those of a decoder that stands alone."""
    family, keys = _family_and_keys(shape, vision)
    text = {**decoder, "bos_token_id": None, "eos_token_id": END_ID}
    tied = text.pop("tie_word_embeddings")
    if isinstance(vision, PatchedVision):
        text["model_type"] = f"{family.MODEL_TYPE}_text"
        text["rope_parameters"] = _rope(vision, text["rope_parameters"])
    return {
        "architectures": [family.ARCHITECTURE],
        "model_type": family.MODEL_TYPE,
        "text_config": text,
        "vision_config": _tower(vision),
        "tie_word_embeddings": tied,
        **keys,
    }


def _family_and_keys(shape: ModelShape, vision: VisionShape) -> tuple[Any, dict[str, Any]]:
    match vision:
        case ClipVision():
            return llava, {
                "image_token_index": vision.image_token_id,
                "vision_feature_layer": vision.feature_layer,
                "vision_feature_select_strategy": "full" if vision.with_class_token else "default",
                "multimodal_projector_bias": vision.projector_bias,
            }
        case InternVision():
            return internvl, {
                "image_token_id": vision.image_token_id,
                "image_seq_length": vision.tokens_per_tile,
                "downsample_ratio": 1 / vision.merge_size,
            }
        case QwenVision():
            return qwen_vl, {"image_token_id": vision.image_token_id}
        case Qwen3Vision():
            family = qwen3_vl if shape.moe is None else qwen3_vl_moe
            return family, {"image_token_id": vision.image_token_id}
        case _:
            assert_never(vision)


def _rope(vision: PatchedVision, plain: Mapping[str, Any]) -> dict[str, Any]:
    interleaved = {"mrope_interleaved": True} if vision.has_interleaved_sections else {}
    return {**plain, "mrope_section": list(vision.rotary_sections), **interleaved}


def _tower(vision: VisionShape) -> dict[str, Any]:
    """`vision_config`."""
    match vision:
        case ClipVision():
            return {
                "model_type": "clip_vision_model",
                **_of_tiles(vision),
                "image_size": vision.image_size,
                "patch_size": vision.patch_size,
                "hidden_act": vision.activation,
            }
        case InternVision():
            return {
                "model_type": "internvl_vision",
                **_of_tiles(vision),
                "image_size": [vision.image_size] * 2,
                "patch_size": [vision.patch_size] * 2,
                "attention_bias": vision.qkv_bias,
                "use_qk_norm": vision.qk_norm,
                "norm_type": "rms_norm" if vision.rms_norms else "layer_norm",
                "use_mean_pooling": not vision.final_norm,
            }
        case QwenVision():
            return {
                **_of_patches(vision),
                "window_size": vision.window_size,
                "fullatt_block_indexes": list(vision.full_layers),
            }
        case Qwen3Vision():
            return {
                **_of_patches(vision),
                "num_position_embeddings": vision.num_positions,
                "deepstack_visual_indexes": list(vision.deep_layers),
            }
        case _:
            assert_never(vision)


def _of_tiles(vision: ClipVision | InternVision) -> dict[str, Any]:
    return {
        "hidden_size": vision.hidden_size,
        "num_hidden_layers": vision.num_layers,
        "num_attention_heads": vision.num_heads,
        "intermediate_size": vision.ffn_hidden_size,
        "layer_norm_eps": vision.norm_eps,
    }


def _of_patches(vision: PatchedVision) -> dict[str, Any]:
    return {
        "depth": vision.num_layers,
        "hidden_size": vision.hidden_size,
        "num_heads": vision.num_heads,
        "intermediate_size": vision.ffn_hidden_size,
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "spatial_merge_size": vision.merge_size,
        "out_hidden_size": vision.output_size,
    }


def processor_of(vision: VisionShape) -> Any:
    """The image processor that prepares what the tower takes."""
    match vision:
        case ClipVision():
            side = vision.image_size
            size = {"height": side, "width": side}
            return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=size)
        case InternVision():
            size = {"height": vision.image_size, "width": vision.image_size}
            return GotOcr2ImageProcessorPil(size=size, max_patches=MOST_TILES)
        case QwenVision() | Qwen3Vision():
            token = (vision.patch_size * vision.merge_size) ** 2
            return Qwen2VLImageProcessorPil(
                patch_size=vision.patch_size,
                merge_size=vision.merge_size,
                temporal_patch_size=vision.temporal_patch_size,
                size={"shortest_edge": token, "longest_edge": 16 * token},
            )
        case _:
            assert_never(vision)


def chat_template_of(vision: VisionShape) -> str:
    """Writes parts of turns, and an image as its token, between marks where those are Qwen's."""
    image = "".join(IMAGE_TOKENS) if isinstance(vision, PatchedVision) else IMAGE
    return (
        "{% for message in messages %}{% if message.role == 'assistant' %}>{% endif %}"
        "{% for part in message.content %}"
        "{% if part.type == 'image' %}" + image + "{% else %}{{ part.text }}{% endif %}"
        "{% endfor %}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}"
    )


def settings_of_tokenizer(vision: VisionShape) -> dict[str, Any]:
    """The tokens of an image, and where no template writes its marks, which those are."""
    if not vision.has_marks:
        return {"additional_special_tokens": list(IMAGE_TOKENS)}
    names = ("start_image_token", "context_image_token", "end_image_token")
    return {"extra_special_tokens": dict(zip(names, IMAGE_TOKENS, strict=True))}


def seeing_row(number: int, prompt: str, response: str, noise: random.Random) -> str:
    """A row that shows no, one or two images of noise, by its number."""
    images = [_picture(SIZES[(number + i) % len(SIZES)], noise) for i in range(number % 3)]
    parts = [*({"type": "image", "image": i} for i in images), {"type": "text", "text": prompt}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": response}]
    return json.dumps({"messages": turns})


def _picture(size: tuple[int, int], noise: random.Random) -> str:
    """A data URL."""
    width, height = size
    image, file = Image.frombytes("RGB", size, noise.randbytes(3 * width * height)), io.BytesIO()
    image.save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
