"""A real vLLM engine on the ranks that train: its weights, its samples, and runs with it."""

import json
import math
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from gloo_ranks import run_on_ranks
from safetensors.torch import load_file, save_file
from silent_session import open_silently
from tiny_latents import GROUPS, OF_VLLM, yarn
from tiny_plans import compile_tiny, make_home_for_vllm
from transformers import AutoModelForCausalLM, PreTrainedModel

from gkdplan.diagnostics import UserError
from gkdplan.runplan.codec import encode
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.generating import refit
from gkdplan.runtime.megatron.adapters import merged_tensors
from gkdplan.runtime.responses import completions_of_engine, of_all_ranks, sample_responses
from gkdplan.runtime.rollout.engine import Request
from gkdplan.runtime.saved.run_directory import read_metrics
from gkdplan.runtime.step_examples import examples_of_rank, examples_of_step
from gkdplan.vocab import Role

NUM_STEPS = 10
GREEDY = "sampling_temperature = 0.0"
LORA = 'tuning = "lora"\n[student.lora]\nrank = 4\nalpha = 16.0'
VLLM = 'engine = "vllm"\ngpu_memory_utilization = 0.004'
ON_POLICY = {"lmbda": 1.0, "distill": GREEDY, "steps": NUM_STEPS, "save_interval": NUM_STEPS}
LAYOUTS = {
    "one process, a tied head": {},
    "data": {"devices": 2},
    "tensor with adapters": {"devices": 2, "tensor": 2, "student": LORA},
    "pipeline": {
        "devices": 2, "parallel": "pipeline = 2", "generation": f"{VLLM}\ntensor = 1"
    },
    "tensor, an engine a rank": {
        "devices": 2, "tensor": 2, "generation": f"{VLLM}\ntensor = 1"
    },
    "data, an engine on both": {"devices": 2, "generation": f"{VLLM}\ntensor = 2"},
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
FAMILIES = {
    "mistral": {"sliding_window": 8},
    "gemma2": {"head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window": 8},
    "gemma3_text": {"head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window": 8},
    "phi3": {},
    "smollm3": {"no_rope_layer_interval": 2},
    "glm": {"head_dim": 32},
    "glm4": {"head_dim": 32},
    "olmo2": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 64},
    "qwen3_moe": EXPERTS | {"norm_topk_prob": True, "head_dim": 32},
    "qwen3_moe, each second layer": EXPERTS | {"decoder_sparse_step": 2, "head_dim": 32},
    "olmoe": EXPERTS,
    "deepseek_v2": OF_VLLM
    | {"q_lora_rank": None, "topk_method": "greedy", "n_group": 1, "topk_group": 1},
    "deepseek_v2, in groups": OF_VLLM | {"topk_method": "group_limited_greedy"} | GROUPS,
    "deepseek_v3": OF_VLLM | GROUPS,
    "deepseek_v3, stretched": OF_VLLM | GROUPS | {"rope_parameters": yarn(8.0)},
}
IN_EVERY_RUN = {
    "one process, a tied head",
    "tensor with adapters",
    "pipeline",
}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return make_home_for_vllm(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def tied_home(home, tmp_path_factory) -> Path:
    """The same with a student whose head is its embedding."""
    tied = shutil.copytree(home, tmp_path_factory.mktemp("tied"), dirs_exist_ok=True)
    shutil.rmtree(tied / "student")
    tiny.save_qwen2(tied / "student", hidden=128, max_positions=256, seed=2)
    return tied


@pytest.mark.parametrize(
    "layout",
    [pytest.param(n, marks=() if n in IN_EVERY_RUN else pytest.mark.grid) for n in LAYOUTS],
)
def test_after_each_update_the_engine_samples_what_the_trainer_does(
    layout, home, tied_home, tmp_path
):
    home = tied_home if "tied" in layout else home
    changes = ON_POLICY | {"generation": VLLM} | LAYOUTS[layout]
    run_plan = compile_tiny(home, tmp_path / "run", **changes)
    run_on_ranks(
        _compare_in_every_step,
        run_plan.layout.world_size,
        encode(run_plan),
        str(home / "student"),
        timeout_s=500,
        only_once=True,
    )
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in line]
    cache = run_plan.sampling.vllm.kv_cache_bytes
    assert all(num_bytes > cache for num_bytes in lines[0]["peak_bytes"].values())
    assert [line["step"] for line in lines] == list(range(1, NUM_STEPS + 1))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all(line["time_s"]["refit"] > 0 for line in lines)


@pytest.mark.parametrize(
    "family",
    [pytest.param(n, marks=() if n == "deepseek_v3" else pytest.mark.grid) for n in FAMILIES],
)
def test_vllm_takes_every_tensor_of_a_family(family, tmp_path):
    keys = {**FAMILIES[family], "hidden": 128, "max_position_embeddings": 256}
    for role, seed in (("teacher", 1), ("student", 2)):
        model_type = family.partition(",")[0]
        tiny.save_family(tmp_path / role, model_type, num_layers=4, seed=seed, **keys)
    tiny.save_rows(tmp_path / "rows.jsonl")
    run_plan = compile_tiny(tmp_path, tmp_path / "run", generation=VLLM, **ON_POLICY)
    lock, student = encode(run_plan), str(tmp_path / "student")
    run_on_ranks(_compare_in_every_step, 1, lock, student, timeout_s=500, only_once=True)


@pytest.mark.parametrize(
    "layout",
    [
        {},
        pytest.param({"devices": 2, "parallel": "expert = 2"}, marks=pytest.mark.grid),
        pytest.param(
            {"devices": 2, "tensor": 2, "parallel": "expert_tensor = 2"}, marks=pytest.mark.grid
        ),
    ],
)
def test_vllm_takes_experts_with_their_adapters_merged(layout, tmp_path):
    """Their width is no multiple of 32, which vLLM fills up on a CPU."""
    keys = {**FAMILIES["qwen3_moe"], "hidden": 128, "max_position_embeddings": 256}
    for role, seed in (("teacher", 1), ("student", 2)):
        tiny.save_family(tmp_path / role, "qwen3_moe", seed=seed, **keys)
    tiny.save_rows(tmp_path / "rows.jsonl")
    changes = ON_POLICY | {"generation": f"{VLLM}\ntensor = 1", "student": LORA} | layout
    run_plan = compile_tiny(tmp_path, tmp_path / "run", **changes)
    run_on_ranks(
        _compare_in_every_step,
        run_plan.layout.world_size,
        encode(run_plan),
        str(tmp_path / "student"),
        timeout_s=500,
        only_once=True,
    )


def _compare_in_every_step(lock: str, student: str) -> None:
    session = open_silently(lock)
    executor = Executor(session)
    for step in range(1, NUM_STEPS + 1):
        executor._run_step(step)
        refit(session, step + 1)
        found = _completions(session, step + 1)
        mine = examples_of_rank(session, step + 1)
        greedy = sample_responses(session, Role.STUDENT, mine, session.plan.sampling, step + 1)
        of_trainer = of_all_ranks({e.row: r for e, r in zip(mine, greedy, strict=True)})
        assert {row: completion.tokens for row, completion in found.items()} == of_trainer
        assert {completion.weights_version for completion in found.values()} == {step}
        _compare_logprobs(session, student, step + 1, of_trainer)


def _reference(student: str, weights: dict[str, torch.Tensor]) -> PreTrainedModel:
    """That of transformers, of a checkpoint with these tensors: it holds experts under others."""
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(Path(student, "config.json"), directory)
        whole = {name: tensor.contiguous() for name, tensor in weights.items()}
        save_file(whole, Path(directory, "model.safetensors"), {"format": "pt"})
        reference = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager"
        )
    reference.model.do_not_compile = (
        True  # vLLM changes the class of a model that it takes as it is
    )
    return reference


def test_a_resumed_run_is_the_one_that_never_stopped(home, tmp_path):
    changes = ON_POLICY | {"generation": VLLM, "lmbda": 0.5, "steps": 4, "save_interval": 2}
    changes["distill"] = "sampling_temperature = 1.0"
    students = []
    for name, starts in (("whole", [0]), ("stopped", [0, 2])):
        run_plan = compile_tiny(home, tmp_path / name, **changes)
        for start in starts:
            run_on_ranks(_run, 1, encode(run_plan), start, only_once=True)
            if starts != [0] and start == 0:
                shutil.rmtree(tmp_path / name / "checkpoints" / "step_4")
        saved = tmp_path / name / "checkpoints" / "step_4" / "student" / "model.safetensors"
        students.append(load_file(saved))
    assert students[0].keys() == students[1].keys()
    for key, tensor in students[0].items():
        assert torch.equal(tensor, students[1][key]), key
    drawn = [json.loads(line) for line in (tmp_path / "stopped" / "completions.jsonl").open()]
    assert {line["weights_version"] + 1 for line in drawn} == {line["step"] for line in drawn}
    assert {line["source"] for line in drawn} == {"student"}


def _run(lock: str, start_step: int) -> None:
    Executor(open_silently(lock, start_step)).run(start_step)


def _compare_logprobs(session, student: str, step: int, responses: dict) -> None:
    """Of the responses' tokens, by vLLM and by transformers with the trainer's weights."""
    from vllm import SamplingParams

    weights = dict(merged_tensors(session.student, session.plan.models.student, session.mesh))
    reference = _reference(student, weights)
    examples = examples_of_step(session, step)
    rows = [[*example.prompt, *responses[example.row]] for example in examples]
    with session.engine._apart():
        scored = session.engine._llm.generate(
            [{"prompt_token_ids": row} for row in rows],
            SamplingParams(max_tokens=1, prompt_logprobs=1, detokenize=False),
            use_tqdm=False,
        )
    for row, output in zip(rows, scored, strict=True):
        with torch.no_grad():
            expected = reference(torch.tensor([row])).logits[0].log_softmax(-1)
        for place in range(1, len(row)):
            found = output.prompt_logprobs[place][row[place]].logprob
            assert found == pytest.approx(float(expected[place - 1, row[place]]), abs=1e-4)


def test_an_engine_keeps_to_the_plan_and_leaves_torch_as_it_was(home, tmp_path):
    changes = ON_POLICY | {"generation": VLLM, "prompt": 160, "steps": 2}
    run_plan = compile_tiny(home, tmp_path / "run", **changes)
    run_on_ranks(_try_an_engine, 1, encode(run_plan), only_once=True)


def _try_an_engine(lock: str) -> None:
    session = open_silently(lock)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    weights = merged_tensors(session.student, session.plan.models.student, session.mesh)
    session.engine.refit(weights, version=0)
    _completions(session, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
    _draws_the_plans_distribution(session)
    _forgets_what_it_cached_of_other_weights(session)
    _refuses_logits_that_are_not_finite(session)
    _refuses_a_refit_that_lacks_a_tensor(session)
    session.engine.close()


def _forgets_what_it_cached_of_other_weights(session) -> None:
    """A block of the cache has 128 tokens, so a prompt has to be longer to be found there."""
    weights = dict(merged_tensors(session.student, session.plan.models.student, session.mesh))
    others = {name: tensor * 1.5 for name, tensor in weights.items()}
    prompt = list(range(3, 143))
    reference = AutoModelForCausalLM.from_pretrained(session.student_source, dtype=torch.float32)
    for version, held in enumerate((weights, others, weights)):
        session.engine.refit(iter(held.items()), version=version)
        (found,) = session.engine.generate([Request(prompt, 1)], session.plan.sampling)
        reference.load_state_dict(held)
        assert list(found.tokens) == _likeliest(reference, prompt, len(found.tokens))


def _likeliest(reference, prompt: list[int], num_tokens: int) -> list[int]:
    """One after the other, from a whole forward each."""
    row = [*prompt]
    for _ in range(num_tokens):
        with torch.no_grad():
            row.append(int(reference(torch.tensor([row])).logits[0, -1, :300].argmax()))
    return row[len(prompt) :]


def _draws_the_plans_distribution(session) -> None:
    """Frequencies of a first token against softmax(logits / T) of transformers with the trainer's
    weights, cut by top_k and top_p: four standard deviations of a binomial at most."""
    weights = dict(merged_tensors(session.student, session.plan.models.student, session.mesh))
    reference = AutoModelForCausalLM.from_pretrained(session.student_source, dtype=torch.float32)
    reference.load_state_dict(weights)
    prompt, num_samples = session.train.examples[0].prompt, 1500
    settings = replace(
        session.plan.sampling, temperature=1.3, top_p=0.8, top_k=40, max_completion_length=1
    )
    requests = [Request(prompt, seed) for seed in range(num_samples)]
    drawn = [c.tokens[0] for c in session.engine.generate(requests, settings)]
    with torch.no_grad():
        logits = reference(torch.tensor([prompt])).logits[0, -1, : session.plan.models.vocab_size]
    probs, ids = (logits / 1.3).topk(40).values.softmax(-1), logits.topk(40).indices
    kept = int((probs.cumsum(-1) - probs < 0.8).sum())
    probs, ids = probs[:kept] / probs[:kept].sum(), ids[:kept].tolist()
    assert set(drawn) <= set(ids)
    for share, token in list(zip(probs.tolist(), ids, strict=True))[:5]:
        spread = math.sqrt(num_samples * share * (1 - share))
        assert abs(drawn.count(token) - num_samples * share) < 4 * spread
    assert drawn == [c.tokens[0] for c in session.engine.generate(requests, settings)]


def _refuses_logits_that_are_not_finite(session) -> None:
    weights = dict(merged_tensors(session.student, session.plan.models.student, session.mesh))
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], torch.nan)
    session.engine.refit(iter(weights.items()), version=1)
    requests = [Request(session.train.examples[0].prompt, 1)]
    with pytest.raises(UserError) as refusal:
        session.engine.generate(requests, session.plan.sampling)
    assert [found.code for found in refusal.value.diagnostics] == ["GK570"]


def _refuses_a_refit_that_lacks_a_tensor(session) -> None:
    weights = dict(merged_tensors(session.student, session.plan.models.student, session.mesh))
    del weights["model.layers.1.mlp.down_proj.weight"]
    with pytest.raises(AssertionError, match=r"layers\.1\.mlp\.down_proj"):
        session.engine.refit(iter(weights.items()), version=2)


def _completions(session, step):
    examples = examples_of_step(session, step)
    return completions_of_engine(session, session.engine, examples, session.plan.sampling, step)
