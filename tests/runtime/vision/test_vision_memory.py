"""What a tower needs while it looks, as the ledger prices it, and the FLOPs that are predicted."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gkdplan.planner.memory.learning_eyes import backward_bytes, kept_bytes
from gkdplan.planner.memory.vision import tower_bytes
from gkdplan.planner.timing.vision import tower_flops
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.megatron.config import TORCH_DTYPES
from gkdplan.runtime.vision.pixels import Pixels
from gkdplan.runtime.vision.tower import build_tower
from gkdplan.vision import (
    ClipVision,
    InternVision,
    Qwen3Vision,
    QwenVision,
    TiledVision,
    VisionShape,
    deep_layers_of,
)
from gkdplan.vocab import Dtype

CLIP = ClipVision(
    hidden_size=32,
    num_layers=3,
    num_heads=2,
    ffn_hidden_size=128,
    image_size=56,
    patch_size=7,
    activation="quick_gelu",
    norm_eps=1e-5,
    output_size=48,
    image_token_id=1,
    feature_layer=-2,
    with_class_token=False,
    projector_bias=True,
)
INTERN = InternVision(
    hidden_size=32,
    num_layers=3,
    num_heads=2,
    ffn_hidden_size=128,
    image_size=64,
    patch_size=8,
    activation="gelu",
    norm_eps=1e-6,
    output_size=48,
    image_token_id=1,
    merge_size=2,
    qkv_bias=True,
    qk_norm=False,
    rms_norms=False,
    final_norm=False,
)
QWEN = QwenVision(
    hidden_size=64,
    num_layers=3,
    num_heads=2,
    ffn_hidden_size=171,
    patch_size=4,
    temporal_patch_size=2,
    merge_size=2,
    window_size=32,
    full_layers=(1,),
    output_size=96,
    rotary_sections=(1, 1, 2),
    image_token_id=1,
)
QWEN3 = Qwen3Vision(
    hidden_size=64,
    num_layers=4,
    num_heads=2,
    ffn_hidden_size=256,
    patch_size=4,
    temporal_patch_size=2,
    merge_size=2,
    output_size=96,
    rotary_sections=(2, 1, 1),
    image_token_id=1,
    num_positions=25,
    deep_layers=(1, 2),
)
TOWERS = {
    "wide MLP": (CLIP, Dtype.FP32),
    "narrow MLP": (replace(CLIP, ffn_hidden_size=32), Dtype.FP32),
    "wide decoder": (replace(CLIP, output_size=512), Dtype.FP32),
    "clip in bf16": (CLIP, Dtype.BF16),
    "intern": (INTERN, Dtype.FP32),
    "intern with a narrow MLP": (replace(INTERN, ffn_hidden_size=32), Dtype.FP32),
    "intern with a wide decoder": (replace(INTERN, output_size=768), Dtype.FP32),
    "intern as it is at 6B": (
        replace(INTERN, qk_norm=True, rms_norms=True, qkv_bias=False),
        Dtype.FP32,
    ),
    "intern in bf16": (INTERN, Dtype.BF16),
    "intern as it is at 6B in bf16": (
        replace(INTERN, qk_norm=True, rms_norms=True, final_norm=True),
        Dtype.BF16,
    ),
    "qwen": (QWEN, Dtype.FP32),
    "qwen with a wide MLP": (replace(QWEN, ffn_hidden_size=320), Dtype.FP32),
    "qwen in bf16": (QWEN, Dtype.BF16),
    "qwen with a wide MLP in bf16": (replace(QWEN, ffn_hidden_size=480), Dtype.BF16),
    "qwen3": (QWEN3, Dtype.FP32),
    "qwen3 with a wide MLP": (replace(QWEN3, ffn_hidden_size=640), Dtype.FP32),
    "qwen3 in bf16": (QWEN3, Dtype.BF16),
}
SIDE = 24
"""Patches of an image of Qwen's: 144 tokens."""


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.parametrize("num_images", [1, 3])
def test_what_is_alive_in_a_tower_is_what_is_priced(kind, num_images):
    vision, dtype = TOWERS[kind]
    tower = build_tower(vision, TORCH_DTYPES[dtype]).requires_grad_(False)
    for parameter in tower.parameters():
        parameter.normal_(std=0.02)
    pixels, num_tokens = _images(vision, num_images)
    assert pixels.values.numel() == vision.num_pixels(num_tokens)
    meter = LiveBytes(torch.device("cpu"))
    meter.adopt([*tower.parameters(), *tower.buffers(), pixels.values])
    held = meter.current_bytes
    with torch.no_grad(), meter:
        meter.mark_phase()
        features = tower(pixels)
    size = (num_tokens, vision.output_size)
    assert [tuple(of_one.shape) for of_one in features] == [size] * (1 + deep_layers_of(vision))
    passing = meter.peak_bytes - held
    assert passing == pytest.approx(tower_bytes(vision, num_tokens, dtype), rel=0.1)


LEARNING = [("tower", "projector"), ("tower",), ("projector",)]


@pytest.mark.parametrize("parts", LEARNING)
@pytest.mark.parametrize("kind", TOWERS)
def test_what_eyes_that_learn_keep_is_what_is_priced(kind, parts):
    """Their features are kept by nobody, and are alive here. The backward ends in a peak within a
    tenth: what passes in it is a small part."""
    vision, dtype = TOWERS[kind]
    tower = build_tower(vision, TORCH_DTYPES[dtype])
    for name, parameter in tower.named_parameters():
        parameter.data.normal_(std=0.02)
        part = "projector" if name.startswith(vision.projector) else "tower"
        parameter.requires_grad_(part in parts and vision.is_read(name))
    pixels, num_tokens = _images(vision, 1)
    learning = SimpleNamespace(
        shape=SimpleNamespace(vision=vision),
        dtype=dtype,
        trains_tower="tower" in parts,
        trains_projector="projector" in parts,
    )
    meter = LiveBytes(torch.device("cpu"))
    meter.adopt([*tower.parameters(), *tower.buffers(), pixels.values])
    held = meter.current_bytes
    with meter:
        features = tower(pixels)
        alive = sum(of_one.nbytes for of_one in features)
        kept = meter.current_bytes - held - alive
        assert kept == pytest.approx(kept_bytes(learning, num_tokens), rel=0.01)
        for parameter in tower.parameters():
            parameter.grad = torch.zeros_like(parameter)
        before = meter.current_bytes
        meter.mark_phase()
        sum((of_one * 1.0).sum() for of_one in features).backward()
    expected = kept_bytes(learning, num_tokens) + backward_bytes(learning, num_tokens)
    assert kept + meter.peak_bytes - before == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    "vision", [CLIP, replace(CLIP, with_class_token=True), INTERN, QWEN, QWEN3]
)
def test_flops_are_those_that_torch_counts(vision):
    """Of one image, in products that it knows. A tile's class token is cut out of no pixels."""
    tower = build_tower(vision, torch.float32)
    pixels, num_tokens = _images(vision, 1)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        tower(pixels)
    of_no_patch = 0
    if isinstance(vision, TiledVision):
        of_no_patch = 2 * 3 * vision.patch_size**2 * vision.hidden_size
    assert counter.get_total_flops() == tower_flops(vision, num_tokens) - of_no_patch


def _images(vision: VisionShape, num_images: int) -> tuple[Pixels, int]:
    """Of noise, and the tokens that they take."""
    nowhere = torch.zeros(0, dtype=torch.int64)
    if isinstance(vision, TiledVision):
        values = torch.randn(num_images, 3, vision.image_size, vision.image_size)
        return Pixels(values, nowhere, nowhere), num_images * vision.tokens_per_tile
    values = torch.randn(num_images * SIDE**2, vision.numbers_per_patch)
    grids_I3 = torch.tensor([[1, SIDE, SIDE]] * num_images)
    return Pixels(values, nowhere, nowhere, grids_I3), num_images * (SIDE // vision.merge_size) ** 2
