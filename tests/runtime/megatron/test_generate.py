import gc
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import run_on_ranks
from megatron.core.models.gpt.gpt_model import GPTModel
from tiny_models import SIZES, load_hf, plan_of, save_tiny, start_mesh

from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.sampling import Sampling
from gkdplan.runtime.megatron import generate as generate_module
from gkdplan.runtime.megatron.decoder import Decoder
from gkdplan.runtime.megatron.generate import generate
from gkdplan.runtime.megatron.kv_cache import KeyValueCache
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.model import build_model
from gkdplan.runtime.megatron.weights import load_weights
from gkdplan.runtime.rollout.sampling import row_seed, sample
from gkdplan.vocab import Engine

PEAKED = ("gemma2-plain", "gemma2", "gemma3")
"""With scaled embeddings that are its head too, a random model says one token again and again."""
FAMILIES = [
    "llama",
    "llama3-rope",
    "qwen2",
    "qwen3",
    "olmo2",
    "olmoe",
    "gemma2-plain",
    "phi3",
    "mistral",
    "smollm3",
    "glm4",
    "gemma2",
    "gemma3",
    "deepseek-v2-lite",
]
VOCAB_SIZE = SIZES["vocab_size"]
NUM_TOKENS = 14
LENGTHS = [5, 40, 1, 17, 5, 9]
PROMPTS = [[(7 * row + 3 * i) % VOCAB_SIZE for i in range(n)] for row, n in enumerate(LENGTHS)]
SEEDS = [row_seed(42, 1, row) for row in range(len(PROMPTS))]
GREEDY = Sampling(Engine.MEGATRON, 0.0, 1.0, None, NUM_TOKENS)
RANDOM = Sampling(Engine.MEGATRON, 0.9, 0.9, 60, NUM_TOKENS)
STOP_IDS = frozenset(range(0, VOCAB_SIZE, 9))
REVERSED = [5, 4, 3, 2, 1, 0]


def write_findings(directory: Path, tensor: int) -> None:
    mesh = start_mesh(AxisDegrees(tensor=tensor, sequence=True, data=1))
    findings = {name: completions_of(name, directory, mesh) for name in FAMILIES}
    findings |= state_around_generation(directory, mesh) | cache_bytes(directory, mesh)
    findings["first logits"] = first_logits("gemma2", directory, mesh)
    rank = torch.distributed.get_rank()
    (directory / f"{tensor}-{rank}.json").write_text(json.dumps(findings))


def completions_of(name: str, directory: Path, mesh: Mesh) -> dict[str, list[list[int]]]:
    model = build_tiny(name, directory, mesh)
    rows = range(len(PROMPTS))
    completions = {
        "greedy": complete(model, rows, GREEDY),
        "random": complete(model, rows, RANDOM),
        "alone": [complete(model, [row], RANDOM)[0] for row in rows],
        "reversed": complete(model, REVERSED, RANDOM),
        "stopped": complete(model, rows, RANDOM, STOP_IDS),
        "nothing": complete(model, [], RANDOM),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate_module, "PREFILL_TOKENS", 8)
        completions["prefilled apart"] = complete(model, rows, RANDOM)
    return completions


def first_logits(name: str, directory: Path, mesh: Mesh) -> list[list[float]]:
    """From which the first token of each completion is drawn."""
    model, drawn_from = build_tiny(name, directory, mesh), []

    def seen(logits_BV: torch.Tensor, **options: Any) -> torch.Tensor:
        drawn_from.append(logits_BV[:, :VOCAB_SIZE].tolist())
        return sample(logits_BV, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate_module, "sample", seen)
        complete(model, range(len(PROMPTS)), RANDOM)
    return drawn_from[0]


def state_around_generation(directory: Path, mesh: Mesh) -> dict[str, object]:
    model = build_tiny("qwen3", directory, mesh, trainable=True)
    assert model.config.sequence_parallel is (mesh.tensor_size > 1)
    tokens_BS = torch.arange(24).view(2, 12)
    logits_before, flags_before = model(tokens_BS, None, None), flags_of(model)
    sizes_of_head = set()
    hook = model.decoder.final_layernorm.register_forward_pre_hook(
        lambda _, inputs: sizes_of_head.add(inputs[0][..., 0].numel())
    )
    complete(model, range(len(PROMPTS)), GREEDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate_module, "sample", raise_floating_point_error)
        with pytest.raises(FloatingPointError):
            complete(model, range(len(PROMPTS)), GREEDY)
    hook.remove()
    logits_after = model(tokens_BS, None, None)
    logits_after.sum().backward()
    return {
        "flags kept": flags_of(model) == flags_before,
        "logits kept": torch.equal(logits_before, logits_after),
        "gradients": all(parameter.grad is not None for parameter in model.parameters()),
        "sizes of head": sorted(sizes_of_head),
    }


def cache_bytes(directory: Path, mesh: Mesh) -> dict[str, int]:
    model = build_tiny("llama", directory, mesh)
    cache = KeyValueCache(Decoder([model], max(LENGTHS)), LENGTHS, NUM_TOKENS)
    planned = sum(tensor.nbytes for tensor in cache.keys + cache.values)
    del cache
    complete(model, range(len(PROMPTS)), GREEDY)
    gc.collect()
    alive = [x for x in gc.get_objects() if isinstance(x, torch.Tensor) and x.shape[2:] == (54, 8)]
    return {"cache bytes": planned, "cache tensors left": len(alive)}


def complete(model, rows, sampling, stop_ids=frozenset()) -> list[list[int]]:
    return generate(
        [model],
        [PROMPTS[row] for row in rows],
        [SEEDS[row] for row in rows],
        sampling,
        stop_ids=stop_ids,
        vocab_size=VOCAB_SIZE,
    )


def raise_floating_point_error(*_: object, **__: object) -> None:
    raise FloatingPointError


def build_tiny(name: str, directory: Path, mesh: Mesh, trainable: bool = False) -> GPTModel:
    plan = plan_of(name, mesh.tensor_size)
    degrees = AxisDegrees(tensor=mesh.tensor_size, sequence=True, data=1)
    model = build_model(plan, degrees, mesh, trainable=trainable)
    load_weights([model], directory / name, plan, mesh)
    return model


def flags_of(model: GPTModel) -> list[tuple[str, str, object]]:
    return [
        (name, flag, getattr(owner, flag))
        for name, module in model.named_modules()
        for owner in (module, getattr(module, "config", None))
        for flag in ("sequence_parallel", "scatter_to_sequence_parallel", "training")
        if hasattr(owner, flag)
    ]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    for name in FAMILIES:
        save_tiny(name, directory)
    return directory


@pytest.fixture(scope="module", params=[1, 2], ids=["tensor1", "tensor2"])
def findings(request: pytest.FixtureRequest, directory: Path) -> dict[str, Any]:
    run_on_ranks(write_findings, request.param, directory, request.param)
    ranks = [json.loads(path.read_text()) for path in directory.glob(f"{request.param}-*.json")]
    assert len(ranks) == request.param
    assert all(rank == ranks[0] for rank in ranks), "tensor ranks disagree"
    return ranks[0] | {"tensor": request.param}


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_tokens_equal_those_of_transformers(
    name: str, directory: Path, findings: dict[str, Any]
) -> None:
    model = load_hf(name, directory)
    for prompt, completion in zip(PROMPTS, findings[name]["greedy"], strict=True):
        reference = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=NUM_TOKENS,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert completion == reference[0, len(prompt) :].tolist()


@torch.no_grad()
def test_logits_that_are_drawn_from_are_bounded(directory: Path, findings: dict[str, Any]) -> None:
    """As greedy tokens cannot tell: a bound keeps the order."""
    model = load_hf("gemma2", directory)
    expected = [model(torch.tensor([prompt])).logits[0, -1].tolist() for prompt in PROMPTS]
    assert max(map(max, expected)) < 3.0
    found = findings["first logits"]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_completion_depends_on_its_prompt_and_seed(name: str, findings: dict[str, Any]) -> None:
    of = findings[name]
    assert of["alone"] == of["prefilled apart"] == of["random"]
    assert of["reversed"] == [of["random"][row] for row in REVERSED]
    assert of["random"] != of["greedy"]
    assert len(set(map(tuple, of["random"]))) == len(PROMPTS)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in PEAKED])
def test_a_completion_ends_with_its_first_stop_id(name: str, findings: dict[str, Any]) -> None:
    whole, stopped = findings[name]["random"], findings[name]["stopped"]
    ends = [next((i + 1 for i, t in enumerate(row) if t in STOP_IDS), NUM_TOKENS) for row in whole]
    assert [len(row) for row in whole] == [NUM_TOKENS] * len(PROMPTS)
    assert stopped == [row[:end] for row, end in zip(whole, ends, strict=True)]
    assert len(set(ends)) > 2, "the rows should end apart, or leaving the batch goes untested"


@pytest.mark.parametrize("name", FAMILIES)
def test_tensor_degrees_sample_the_same(
    name: str, directory: Path, findings: dict[str, Any]
) -> None:
    for path in directory.glob("*.json"):
        assert json.loads(path.read_text())[name] == findings[name]


def test_no_prompts_give_no_completions(findings: dict[str, Any]) -> None:
    assert findings["qwen3"]["nothing"] == []


def test_the_model_is_left_as_it_was_also_after_a_failure(findings: dict[str, Any]) -> None:
    assert findings["flags kept"]
    assert findings["logits kept"]
    assert findings["gradients"]


def test_the_head_sees_one_token_a_row(findings: dict[str, Any]) -> None:
    assert findings["sizes of head"] == [len(PROMPTS)]


def test_the_cache_has_the_planned_bytes_and_is_freed(findings: dict[str, Any]) -> None:
    # 2 tensors x 3 layers x 6 rows x 2 kv heads x head size 8 x (40 + 14) columns x 4 bytes
    assert findings["cache bytes"] == 2 * 3 * 6 * 2 * 8 * 54 * 4 // findings["tensor"]
    assert findings["cache tensors left"] == 0
