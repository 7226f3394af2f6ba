"""What a tower needs while it looks, as the ledger prices it."""

from dataclasses import replace

import pytest
import torch

from gkdplan.planner.memory.vision import tower_elements
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.vision.tower import build_tower
from gkdplan.vision import ClipVision

SQUARE = ClipVision(
    hidden_size=32,
    num_layers=3,
    num_heads=2,
    ffn_hidden_size=128,
    image_size=56,
    patch_size=7,
    activation="quick_gelu",
    norm_eps=1e-5,
    feature_layer=-2,
    with_class_token=False,
    projector_bias=True,
    output_size=48,
    image_token_id=1,
)
TOWERS = {
    "wide MLP": SQUARE,
    "narrow MLP": replace(SQUARE, ffn_hidden_size=32),
    "wide decoder": replace(SQUARE, output_size=512),
}


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.parametrize("num_images", [1, 3])
def test_what_is_alive_in_a_tower_is_what_is_priced(kind, num_images):
    vision = TOWERS[kind]
    tower = build_tower(vision, torch.float32).requires_grad_(False)
    for parameter in tower.parameters():
        parameter.normal_(std=0.02)
    pixels = torch.randn(num_images, 3, 56, 56)
    meter = LiveBytes(torch.device("cpu"))
    meter.adopt([*tower.parameters(), *tower.buffers(), pixels])
    held = meter.current_bytes
    with torch.no_grad(), meter:
        meter.mark_phase()
        features = tower(pixels)
    assert features.shape == (num_images * vision.tokens_per_image, vision.output_size)
    passing = meter.peak_bytes - held
    assert passing == pytest.approx(4 * tower_elements(vision, num_images), rel=0.1)
