"""Greedy completions through stages, contexts and experts equal those of transformers."""

from pathlib import Path

import pytest
import torch
from gloo_ranks import run_on_ranks
from tiny_models import SIZES, load_hf, plan_of, start_mesh

from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.sampling import Sampling
from gkdplan.runtime.megatron import generate as generate_module
from gkdplan.runtime.megatron.generate import generate
from gkdplan.runtime.megatron.model import build_chunks
from gkdplan.runtime.megatron.weights import load_weights
from gkdplan.vocab import Engine

VOCAB_SIZE = SIZES["vocab_size"]
NUM_TOKENS = 12
LENGTHS = [5, 23, 1, 9, 30, 3]
PROMPTS = [[(7 * row + 3 * i) % VOCAB_SIZE for i in range(n)] for row, n in enumerate(LENGTHS)]
GREEDY = Sampling(Engine.MEGATRON, 0.0, 1.0, None, NUM_TOKENS)
CASES = {
    "pipeline, tied and uneven": (
        "qwen3",
        AxisDegrees(tensor=1, sequence=False, data=1, pipeline=2),
        ((2,), (1,)),
    ),
    "virtual pipeline with experts": (
        "qwen2-moe",
        AxisDegrees(tensor=1, sequence=False, data=1, pipeline=2, virtual_pipeline=2),
        ((1, 1), (1, 1)),
    ),
    "context": ("qwen3", AxisDegrees(tensor=1, sequence=False, data=1, context=2), ((3,),)),
    "experts over data": (
        "mixtral",
        AxisDegrees(tensor=1, sequence=False, data=2, expert=2),
        ((4,),),
    ),
    "latents, and experts in groups over tensor": (
        "deepseek-v3",
        AxisDegrees(tensor=2, sequence=True, data=1, expert=2),
        ((4,),),
    ),
    "latents through stages": (
        "deepseek-v2",
        AxisDegrees(tensor=1, sequence=False, data=1, pipeline=2),
        ((1,), (3,)),
    ),
    "experts over tensor": (
        "qwen3-moe-tied",
        AxisDegrees(tensor=2, sequence=True, data=1, expert=2),
        ((4,),),
    ),
    "experts cut over tensor": (
        "mixtral",
        AxisDegrees(tensor=2, sequence=True, data=1, expert_tensor=2),
        ((4,),),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_greedy_tokens_equal_those_of_transformers(case: str, checkpoints: Path) -> None:
    name = CASES[case][0]
    whole = _completions_of_transformers(name, checkpoints)
    stop_ids = frozenset({whole[0][4], whole[3][8]})
    ends = [next((i + 1 for i, t in enumerate(row) if t in stop_ids), NUM_TOKENS) for row in whole]
    assert len(set(ends)) > 1, "rows should end apart"
    expected = [row[:end] for row, end in zip(whole, ends, strict=True)]
    run_on_ranks(_check, 2, case, checkpoints, expected, stop_ids)


def _check(
    case: str, checkpoints: Path, expected: list[list[int]], stop_ids: frozenset[int]
) -> None:
    """Ranks of the data axis have prompts of their own: each ends when it will."""
    name, degrees, stage_layers = CASES[case]
    mesh = start_mesh(degrees)
    plan = plan_of(name, degrees.tensor, stage_layers=stage_layers)
    chunks = build_chunks(plan, degrees, mesh, trainable=True)
    load_weights(chunks, checkpoints / name, plan, mesh)
    mine = slice(mesh.data_rank, None, mesh.data_size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate_module, "PREFILL_TOKENS", 16)
        completions = generate(
            chunks,
            PROMPTS[mine],
            list(range(len(PROMPTS)))[mine],
            GREEDY,
            stop_ids=stop_ids,
            vocab_size=VOCAB_SIZE,
        )
    assert completions == expected[mine]


def _completions_of_transformers(name: str, checkpoints: Path) -> list[list[int]]:
    model = load_hf(name, checkpoints)
    completions = []
    for prompt in PROMPTS:
        tokens = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=NUM_TOKENS,
            eos_token_id=None,
            pad_token_id=0,
        )
        completions.append(tokens[0, len(prompt) :].tolist())
    return completions
