"""What tests of training share: layouts of one and two processes, an optimizer and a loss.

Legend: N tokens, V vocabulary (or a rank's share of it).
"""

import torch
from tiny_models import SIZES
from torch import Tensor

from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.model import OptimizerPlan

ONE = AxisDegrees(tensor=1, sequence=False, data=1)
TENSOR_2 = AxisDegrees(tensor=2, sequence=False, data=1)
TENSOR_2_SEQUENCE = AxisDegrees(tensor=2, sequence=True, data=1)
DATA_2 = AxisDegrees(tensor=1, sequence=False, data=2)
VOCAB_SIZE = SIZES["vocab_size"]
CONSTANT_RATE = OptimizerPlan(
    name="adamw",
    lr=1e-2,
    min_lr=1e-2,
    schedule="constant",
    warmup_steps=0,
    weight_decay=0.0,
    betas=(0.9, 0.95),
    eps=1e-4,
    clip_grad=0.0,
    distributed=False,
)


def loss_of_logits(logits_NV: Tensor, first_id: int = 0) -> Tensor:
    """A sum over tokens and ids, so that any share of the ids has its part of it."""
    ids = torch.arange(first_id, first_id + logits_NV.size(1))
    coefficients = torch.where(ids < VOCAB_SIZE, torch.sin(ids + 1.0), 0.0)
    return (torch.tanh(0.2 * logits_NV) * coefficients).sum() / 50
