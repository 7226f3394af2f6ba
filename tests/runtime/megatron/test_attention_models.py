"""Whole models whose layers attend and turn in a family's ways.

Logits, gradients and greedy tokens against a decoder written out in float64, in every layout that
two processes have; the decoder and the runtime against transformers, one feature a model.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import run_on_ranks
from reference_decoder import reference_logits
from safetensors.torch import load_file, save_file
from tiny_models import SIZES, deep, plan_of, start_mesh
from tiny_training import CONSTANT_RATE, loss_of_logits
from torch import Tensor

from gkdplan.attention import AttentionShape
from gkdplan.rope import LinearScaling, LongRopeScaling, YarnScaling
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.models import ModelPlan, Recompute
from gkdplan.runplan.sampling import Sampling
from gkdplan.runtime.data.batch import row_share
from gkdplan.runtime.megatron import blocked_attention
from gkdplan.runtime.megatron import generate as generate_module
from gkdplan.runtime.megatron.forward import output_head, response_hidden, stage_output
from gkdplan.runtime.megatron.generate import generate
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.model import build_chunks
from gkdplan.runtime.megatron.trainer import Trainer
from gkdplan.runtime.megatron.weights import load_weights
from gkdplan.runtime.rehearsal.models import write_model
from gkdplan.shape import ModelShape
from gkdplan.vocab import Engine

VOCAB_SIZE = SIZES["vocab_size"]
NUM_LAYERS = 4
GREEDY = Sampling(Engine.MEGATRON, 0.0, 1.0, None, 12)
PROMPTS = [[(7 * row + 3 * i) % VOCAB_SIZE for i in range(n)] for row, n in enumerate((5, 23, 1))]
YARN = YarnScaling(4.0, 16, 4.0, 1.0, 1.2, truncate=True)
LONG = LongRopeScaling((1.0, 1.5), (2.0, 8.0), 16, 1.1)
SHAPES: dict[str, dict[str, Any]] = {
    "window": {"attention": AttentionShape(window=5, sliding_layers=(0, 1, 2, 3))},
    "softcap and scale": {"attention": AttentionShape(scale=0.5, softcap=2.0)},
    "two bases": {
        "attention": AttentionShape(
            scale=0.4, window=7, sliding_layers=(0, 1, 3), sliding_rope_theta=100.0
        ),
        "rope_scaling": LinearScaling(8.0),
    },
    "two bases, one multiplied": {
        "attention": AttentionShape(
            softcap=3.0, window=4, sliding_layers=(1, 2), sliding_rope_theta=200.0
        ),
        "rope_scaling": YARN,
    },
    "unrotated layers": {"attention": AttentionShape(unrotated_layers=(1, 3))},
    "a part of the head": {
        "attention": AttentionShape(rotary_fraction=0.5),
        "rope_scaling": LONG,
    },
    "pairs": {"attention": AttentionShape(rotary_fraction=0.75, rotary_in_pairs=True)},
}
ONE = AxisDegrees(tensor=1, sequence=False, data=1)
TENSOR = AxisDegrees(tensor=2, sequence=True, data=1)
PIPELINE = AxisDegrees(tensor=1, sequence=False, data=1, pipeline=2)
INTERLEAVED = replace(PIPELINE, virtual_pipeline=2)
CONTEXT = AxisDegrees(tensor=1, sequence=False, data=1, context=2)
FULL = Recompute("full", "uniform", 1)
LAYOUTS = {
    "one": (ONE, Recompute()),
    "recompute": (ONE, FULL),
    "tensor": (TENSOR, Recompute()),
    "pipeline": (PIPELINE, FULL),
    "interleaved": (INTERLEAVED, Recompute()),
    "context": (CONTEXT, Recompute("selective", modules=("core_attn",))),
}
STAGES = {1: ((4,),), 2: ((1,), (3,)), 4: ((1, 1), (1, 1))}
TOKENS = torch.arange(2 * 20).view(2, 20) * 7 % VOCAB_SIZE


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, and for each shape what the formula makes of them."""
    directory = tmp_path_factory.mktemp("deep") / "model"
    write_model(directory, _plan("window", ONE).shape, seed=5)
    for name in SHAPES:
        _write_expected(name, directory)
    return directory


def _write_expected(name: str, directory: Path) -> None:
    weights = {
        key: tensor.double().requires_grad_()
        for key, tensor in load_file(directory / "model.safetensors").items()
    }
    shape = _plan(name, ONE).shape
    logits = reference_logits(weights, shape, TOKENS)
    loss_of_logits(logits.flatten(0, 1)).backward()
    completions = torch.tensor([_greedy(weights, shape, prompt) for prompt in PROMPTS])
    gradient = weights["model.embed_tokens.weight"].grad
    found = {"logits": logits.detach(), "gradient": gradient, "completions": completions}
    save_file(found, directory / f"{name}.safetensors")


@torch.no_grad()
def _greedy(weights: dict[str, Tensor], shape: ModelShape, prompt: list[int]) -> list[int]:
    tokens, num_new = list(prompt), GREEDY.max_completion_length
    for _ in range(num_new):
        longest = max(map(len, PROMPTS)) + num_new
        logits = reference_logits(weights, shape, torch.tensor([tokens]), longest)
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_gradients_and_tokens_are_those_of_the_formula(layout: str, directory: Path) -> None:
    run_on_ranks(_check_all, 1 if LAYOUTS[layout][0] == ONE else 2, layout, directory)


def _check_all(layout: str, directory: Path) -> None:
    degrees, recompute = LAYOUTS[layout]
    mesh = start_mesh(degrees)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate_module, "PREFILL_TOKENS", 16)
        patch.setattr(blocked_attention, "BLOCK_SCORES", 700)
        for name in SHAPES:
            plan = replace(_plan(name, degrees), recompute=recompute)
            _check(name, plan, degrees, mesh, directory)


def _plan(name: str, degrees: AxisDegrees) -> ModelPlan:
    plan = deep(plan_of("llama", degrees.tensor), NUM_LAYERS)
    stages = STAGES[degrees.pipeline * degrees.virtual_pipeline]
    return replace(plan, shape=replace(plan.shape, **SHAPES[name]), stage_layers=stages)


def _check(name: str, plan: ModelPlan, degrees: AxisDegrees, mesh: Mesh, directory: Path) -> None:
    expected = load_file(directory / f"{name}.safetensors")
    chunks = build_chunks(plan, degrees, mesh, trainable=True)
    load_weights(chunks, directory, plan, mesh)
    completions = generate(
        chunks, PROMPTS, [0, 1, 2], GREEDY, stop_ids=frozenset(), vocab_size=VOCAB_SIZE
    )
    assert completions == expected["completions"].tolist(), name
    here = row_share(degrees, mesh.context_rank).places(TOKENS.size(1))
    logits = _trained_logits(chunks, mesh, TOKENS[:, here])
    num_ids = plan.padded_vocab_size // mesh.tensor_size
    ids = slice(mesh.tensor_rank * num_ids, (mesh.tensor_rank + 1) * num_ids)
    if logits is not None:
        _assert_close(logits.movedim(-1, 0), expected["logits"][:, here, ids].movedim(-1, 0))
    if chunks[0].pre_process:
        gradient = chunks[0].embedding.word_embeddings.weight.main_grad
        _assert_close(gradient, expected["gradient"][ids])


def _assert_close(found: Tensor, expected: Tensor) -> None:
    """Of the ids that the vocabulary has."""
    torch.testing.assert_close(found[: len(expected)].double(), expected, rtol=1e-4, atol=2e-5)


def _trained_logits(chunks: list[Any], mesh: Mesh, tokens_BS: Tensor) -> Tensor | None:
    """The last chunk's [B, S, V / t], row by row, after the backward of a loss of them."""
    found: list[Tensor] = []
    every = torch.arange(tokens_BS.size(1))

    def forward_loss(chunk: Any, tokens_BS: Tensor) -> Tensor:
        if not chunk.post_process:
            return stage_output(chunk, tokens_BS)
        logits_NV = response_hidden(chunk, tokens_BS, every) @ output_head(chunk).t()
        found.append(logits_NV.detach())
        return loss_of_logits(logits_NV, mesh.tensor_rank * logits_NV.size(1))

    trainer = Trainer(chunks, CONSTANT_RATE, mesh, num_steps=1)
    trainer.forward_backward(tokens_BS.split(1), forward_loss, (1, tokens_BS.size(1)))
    return torch.stack(found) if found else None
