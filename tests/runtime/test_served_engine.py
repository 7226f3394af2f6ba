"""A real server of vLLM: weights that travel to it, samples of these, and what is refused."""

import json
import math
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import requests
import tiny
import torch
import vllm_servers
from faulty_proxy import proxy
from gloo_ranks import launched_as_forks, run_on_ranks
from safetensors.torch import load_file
from sampled import sample_tiny
from silent_session import open_silently
from tiny_plans import compile_tiny
from transformers import AutoModelForCausalLM

from gkdplan.diagnostics import UserError
from gkdplan.runplan.codec import encode
from gkdplan.runplan.sampling import Sampling
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.generating import refit
from gkdplan.runtime.http_server import HttpServer
from gkdplan.runtime.launch import run
from gkdplan.runtime.megatron.full_tensors import full_tensors
from gkdplan.runtime.responses import completions_of_engine, sample_responses
from gkdplan.runtime.rollout.asking import Vocabulary
from gkdplan.runtime.rollout.engine import Request
from gkdplan.runtime.rollout.served import ServedEngine
from gkdplan.runtime.rollout.servers import Wanted
from gkdplan.runtime.saved.run_directory import read_metrics
from gkdplan.runtime.step_examples import examples_of_rank, examples_of_step
from gkdplan.samples import manifest_of
from gkdplan.vocab import Engine, Role

SIZES = {"num_layers": 2, "hidden": 64, "ffn": 96, "num_heads": 2, "max_positions": 256}
"""vLLM has no attention on a CPU for heads smaller than 32."""
VOCAB, HEAD_ROWS, STOP = 297, 304, 2
PROMPTS = [(5, 6, 7, 40 + i) for i in range(6)] + [(11,), tuple(range(20, 60))]
WANTED = Wanted(
    {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "dtype": "float32"}, 128
)
GREEDY = Sampling(Engine.VLLM, 0.0, 1.0, None, 12)
ON_POLICY = {
    "lmbda": 1.0,
    "distill": "sampling_temperature = 0.0",
    "steps": 10,
    "save_interval": 10,
    "held_out": "[]",
}
PLAN = """
name = "served"
[student]
model = "{home}/student"
dtype = "fp32"
[teacher]
model = "{home}/student"
[distill]
lmbda = 1.0
[generation]
engine = "vllm"
mode = "server"
server_url = {url}
max_completion_length = 64
[data]
train = ["{home}/rows.jsonl"]
max_length = 192
[batch]
global = 8
[run]
steps = 2
"""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return make_home(tmp_path_factory.mktemp("served"))


def make_home(home: Path) -> Path:
    """Students and a teacher of one size, a student that is deeper, and rows."""
    for seed, name in enumerate(("student", "trained", "teacher"), start=2):
        tiny.save_qwen2(home / name, **SIZES, seed=seed)
    tiny.save_qwen2(home / "deeper", **SIZES | {"num_layers": 3}, seed=4)
    tiny.save_rows(home / "rows.jsonl")
    return home


@pytest.fixture(scope="module")
def server(home) -> Iterator[vllm_servers.VllmServer]:
    with serving(home) as started:
        yield started


@contextmanager
def serving(home: Path) -> Iterator[vllm_servers.VllmServer]:
    url = vllm_servers.free_url()
    plan = home / "plan.toml"
    plan.write_text(PLAN.format(home=home, url=f'"{url}"'))
    started = vllm_servers.start(plan, url)
    try:
        yield started.wait_until_up()
    finally:
        started.end()


def tensors(directory: Path, change=lambda tensor: tensor) -> dict[str, torch.Tensor]:
    """As the trainer yields them: a tied head comes as the embedding alone."""
    model = AutoModelForCausalLM.from_pretrained(directory)
    return {name: change(p.detach()) for name, p in model.named_parameters()}


def mode(server) -> str:
    url = server if isinstance(server, str) else server.url
    return f'engine = "vllm"\nmode = "server"\nserver_url = "{url}"'


def engine(
    *urls: str, weights: dict[str, torch.Tensor], run: str = "run", **changes
) -> ServedEngine:
    largest = max(tensor.nbytes for tensor in weights.values())
    return ServedEngine(
        servers=[HttpServer(url, vllm_servers.KEY) for url in urls],
        backend="gloo",
        bucket_bytes=largest,
        names=frozenset(weights),
        vocabulary=Vocabulary(VOCAB, HEAD_ROWS, frozenset({STOP})),
        weights=lambda: iter(weights.items()),
        wanted=changes.pop("wanted", WANTED),
        run=run,
        **{"tell": lambda line: None, **changes},
    )


def requests_of(prompts=PROMPTS, seed: int = 0) -> list[Request]:
    return [Request(prompt, seed + i) for i, prompt in enumerate(prompts)]


def greedy(directory: Path, prompt: tuple[int, ...], num_tokens: int) -> list[int]:
    """Hugging Face's likeliest ids in float64, of the true vocabulary, to the stop token."""
    model = AutoModelForCausalLM.from_pretrained(directory).double()
    ids = list(prompt)
    for _ in range(num_tokens):
        logits = model(torch.tensor([ids])).logits[0, -1, :VOCAB]
        ids.append(int(logits.argmax()))
        if ids[-1] == STOP:
            break
    return ids[len(prompt) :]


def test_what_was_sent_is_what_samples(server, home):
    """Greedy tokens are Hugging Face's of the weights sent, and log-probabilities to 1e-4."""
    for version, name in enumerate(("trained", "student"), start=1):
        weights = tensors(home / name)
        served = engine(server.url, weights=weights)
        served.refit(iter(weights.items()), version)
        completions = served.generate(requests_of(), GREEDY)
        assert {c.weights_version for c in completions} == {version}
        for prompt, completion in zip(PROMPTS, completions, strict=True):
            assert list(completion.tokens) == greedy(home / name, prompt, 12)
        client = HttpServer(server.url, vllm_servers.KEY)
        truth = AutoModelForCausalLM.from_pretrained(home / name).double()
        assert _worst_logprob(client, truth, PROMPTS[0]) < 1e-4
        served.close()


def _worst_logprob(client: HttpServer, truth, prompt: tuple[int, ...]) -> float:
    """The largest difference from Hugging Face's, along a greedy response."""
    parameters = {"max_tokens": 8, "temperature": 0.0, "ignore_eos": True, "logprobs": 0}
    body = {"token_ids": list(prompt), "sampling_params": parameters}
    content = client.post("/inference/v1/generate", body, 60)["choices"][0]["logprobs"]["content"]
    ids = [*prompt, *(token["token_id"] for token in content)]
    with torch.no_grad():
        logits = truth(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1]
    here = logits.log_softmax(-1).gather(-1, torch.tensor([ids[len(prompt) :]]).T)[:, 0]
    there = torch.tensor([token["logprob"] for token in content], dtype=here.dtype)
    return float((here - there).abs().max())


def test_what_was_cached_of_older_weights_is_forgotten(server, home):
    """A block of the cache has 128 tokens: only a longer prompt is found there again."""
    prompt = tuple(range(3, 153))
    for version, name in enumerate(("trained", "student", "trained"), start=1):
        weights = tensors(home / name)
        served = engine(server.url, weights=weights)
        served.refit(iter(weights.items()), version)
        (completion,) = served.generate(requests_of([prompt]), GREEDY)
        assert list(completion.tokens) == greedy(home / name, prompt, 12)
        served.close()


def test_samples_follow_the_distribution_and_their_seeds(server, home):
    """First tokens of 1,500 seeds under temperature, top_k and top_p, against the probabilities."""
    weights = tensors(home / "trained")
    served = engine(server.url, weights=weights)
    served.refit(iter(weights.items()), 1)
    sampling = Sampling(Engine.VLLM, 0.7, 0.9, 8, 1)
    prompt = PROMPTS[0]
    asked = [Request(prompt, seed) for seed in range(1500)]
    drawn = [c.tokens[0] for c in served.generate(asked, sampling)]
    assert drawn[:20] == [c.tokens[0] for c in served.generate(asked[:20], sampling)]

    model = AutoModelForCausalLM.from_pretrained(home / "trained").double()
    logits = model(torch.tensor([prompt])).logits[0, -1, :VOCAB] / 0.7
    probs, ids = logits.topk(8).values.softmax(-1), logits.topk(8).indices.tolist()
    kept = int(((probs.cumsum(-1) - probs) < 0.9).sum())
    expected = probs[:kept] / probs[:kept].sum()
    counts = Counter(drawn)
    assert set(counts) <= set(ids[:kept])
    for token, p in zip(ids[:kept], expected.tolist(), strict=True):
        spread = math.sqrt(p * (1 - p) / 1500)
        assert counts[token] / 1500 == pytest.approx(p, abs=4.5 * spread)
    served.close()


def test_ids_that_pad_the_vocabulary_are_never_drawn(server, home):
    """Weights whose likeliest id would be one of the padding."""
    weights = tensors(home / "trained")
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.embed_tokens.weight"][VOCAB:] *= 30
    served = engine(server.url, weights=weights)
    served.refit(iter(weights.items()), 1)
    for sampling in (GREEDY, Sampling(Engine.VLLM, 1.0, 1.0, None, 12)):
        for completion in served.generate(requests_of(), sampling):
            assert max(completion.tokens) < VOCAB
    served.close()


def test_another_server_takes_the_prompts_of_one_that_is_not_there(server, home):
    weights, told = tensors(home / "trained"), []
    served = engine(server.url, vllm_servers.free_url(), weights=weights, tell=told.append)
    served.refit(iter(weights.items()), 3)
    completions = served.generate(requests_of(), GREEDY)
    assert [list(c.tokens) for c in completions] == [
        greedy(home / "trained", prompt, 12) for prompt in PROMPTS
    ]
    served.close()


def test_all_that_stay_away_end_the_run_in_bounded_time(home):
    weights = tensors(home / "trained")
    served = engine(vllm_servers.free_url(), weights=weights, patience_s=0.5)
    assert _code_of(lambda: served.refit(iter(weights.items()), 1)) == "GK546"


def test_weights_of_another_run_are_seen(server, home):
    weights = tensors(home / "trained")
    mine, other = (engine(server.url, weights=weights, run=run) for run in ("mine", "other"))
    mine.refit(iter(weights.items()), 1)
    other.refit(iter(weights.items()), 1)
    assert _code_of(lambda: mine.generate(requests_of(), GREEDY)) == "GK571"
    assert len(other.generate(requests_of(), GREEDY)) == len(PROMPTS)
    mine.close()
    other.close()


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted({"intermediate_size": 128}, 128),
        Wanted({"dtype": "bfloat16"}, 128),
        Wanted({}, 257),
    ],
)
def test_a_server_with_another_model_is_refused_before_weights_travel(server, home, wanted):
    """vLLM cuts tensors to its own sizes, and says nothing."""
    weights = tensors(home / "trained")
    served = engine(server.url, weights=weights, wanted=wanted)
    assert _code_of(lambda: served.refit(iter(weights.items()), 1)) == "GK542"


def test_weights_that_the_server_has_no_place_for_are_refused(server, home):
    weights = tensors(home / "deeper")
    served = engine(server.url, weights=weights)
    assert _code_of(lambda: served.refit(iter(weights.items()), 1)) == "GK543"
    served.close()


def test_a_server_goes_on_after_weights_that_it_refused(server, home):
    test_what_was_sent_is_what_samples(server, home)


def test_a_missing_tensor_is_a_bug_of_ours(server, home):
    weights = tensors(home / "trained")
    served = engine(server.url, weights=weights)
    with pytest.raises(AssertionError, match=r"model\.norm\.weight"):
        served.refit(((n, t) for n, t in weights.items() if n != "model.norm.weight"), 1)
    served.refit(iter(weights.items()), 2)
    assert len(served.generate(requests_of(), GREEDY)) == len(PROMPTS)
    served.close()


@pytest.mark.parametrize(
    ("code", "spoil"),
    [
        ("GK572", lambda choice: choice["token_ids"].__setitem__(0, VOCAB)),
        ("GK572", lambda choice: choice["token_ids"].__setitem__(-1, -1)),
        ("GK544", lambda choice: choice.update(token_ids=[])),
        ("GK544", lambda choice: choice.pop("token_ids")),
        ("GK570", lambda choice: choice["logprobs"]["content"][0].update(logprob=math.nan)),
        ("GK571", lambda choice: choice["weight_versions"][0].update(version="run:0")),
    ],
)
def test_answers_that_cannot_be_are_refused(server, home, code, spoil):
    weights = tensors(home / "trained")

    def spoiled(path: str, answer):
        if path == "/inference/v1/generate":
            spoil(answer["choices"][0])
        return answer

    with proxy(server.url, spoiled) as url:
        served = engine(url, weights=weights)
        served.refit(iter(weights.items()), 1)
        assert _code_of(lambda: served.generate(requests_of(), GREEDY)) == code
        served.close()


def test_after_each_update_of_ten_the_server_samples_what_the_trainer_does(server, home, tmp_path):
    run_plan = compile_tiny(home, tmp_path / "run", **ON_POLICY | {"generation": mode(server)})
    lock, student = encode(run_plan), str(home / "student")
    run_on_ranks(_compare_in_every_step, 1, lock, student, vllm_servers.KEY, timeout_s=300)
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all(line["time_s"]["refit"] > 0 for line in lines)


def _compare_in_every_step(lock: str, student: str, key: str) -> None:
    os.environ["VLLM_API_KEY"] = key
    session = open_silently(lock)
    executor = Executor(session)
    reference = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    for step in range(1, 11):
        executor._run_step(step)
        refit(session, step + 1)
        found = completions_of_engine(
            session,
            session.engine,
            examples_of_step(session, step + 1),
            session.plan.sampling,
            step + 1,
        )
        mine = examples_of_rank(session, step + 1)
        drawn = sample_responses(session, Role.STUDENT, mine, session.plan.sampling, step + 1)
        of_trainer = {e.row: r for e, r in zip(mine, drawn, strict=True)}
        assert {row: completion.tokens for row, completion in found.items()} == of_trainer
        assert {completion.weights_version for completion in found.values()} == {step}
        weights = dict(full_tensors(session.student, session.plan.models.student, session.mesh))
        reference.load_state_dict(weights, strict=False)
        reference.tie_weights()
        (client,) = session.engine.servers
        assert _worst_logprob(client, reference, mine[0].prompt) < 1e-4
    session.engine.close()


@pytest.mark.parametrize("tensor", [1, pytest.param(2, marks=pytest.mark.grid)])
def test_a_run_is_that_of_megatrons_own_generation(server, home, tmp_path, monkeypatch, tensor):
    """Greedy, so that every response of every step has to be the same."""
    monkeypatch.setenv("VLLM_API_KEY", vllm_servers.KEY)
    changes = ON_POLICY | {"devices": tensor, "tensor": tensor, "steps": 4, "save_interval": 4}
    drawn, losses = [], []
    for name, generation in (("served", mode(server)), ("own", "")):
        run_plan = compile_tiny(home, tmp_path / name, **changes | {"generation": generation})
        with launched_as_forks() if name == "own" else nullcontext():  # which know no key
            assert run(run_plan).exit_code == 0
        lines = (tmp_path / name / "completions.jsonl").read_text().splitlines()
        drawn.append([json.loads(line) for line in lines])
        metrics = read_metrics(tmp_path / name / "metrics.jsonl")
        losses.append([line["loss"] for line in metrics if "loss" in line])
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 4 * 8
    assert {line["weights_version"] + 1 for line in drawn[0]} == {1, 2, 3, 4}
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


EXPERTS = {
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    | {"head_dim": 32},
    "deepseek_v3": {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32}
    | {"n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2}
    | {"num_key_value_heads": 4, "qk_nope_head_dim": 16, "qk_rope_head_dim": 64}
    | {"v_head_dim": 24, "kv_lora_rank": 512, "q_lora_rank": 40, "routed_scaling_factor": 2.5},
}


@pytest.mark.grid
@pytest.mark.parametrize("family", EXPERTS)
def test_a_run_with_experts_is_that_of_megatrons_own_generation(family, tmp_path, monkeypatch):
    """Experts of a width that vLLM fills up on a CPU, and attention from latents."""
    keys = EXPERTS[family] | {"hidden": 128, "max_position_embeddings": 256}
    for role, seed in (("teacher", 1), ("student", 2)):
        tiny.save_family(tmp_path / role, family, seed=seed, **keys)
    tiny.save_rows(tmp_path / "rows.jsonl")
    with serving(tmp_path) as started:
        test_a_run_is_that_of_megatrons_own_generation(
            started, tmp_path, tmp_path, monkeypatch, tensor=1
        )


@pytest.mark.grid
def test_the_students_samples_of_a_file_are_those_of_megatrons_own_generation(
    server, home, tmp_path, monkeypatch
):
    monkeypatch.setenv("VLLM_API_KEY", vllm_servers.KEY)
    files = [tmp_path / f"{name}.jsonl" for name in ("served", "own")]
    for file, generation in zip(files, (mode(server), ""), strict=True):
        changes = {"distill": ON_POLICY["distill"], "generation": generation, "rows": 6}
        assert sample_tiny(home, file, Role.STUDENT, **changes).exit_code == 0
    served, own = (file.read_text().splitlines() for file in files)
    assert served[1:] == own[1:]
    assert manifest_of(json.loads(served[0])).engine is Engine.VLLM


def test_samples_drawn_ahead_are_those_of_weights_that_lack_one_update(server, home, tmp_path):
    changes = ON_POLICY | {"generation": f"{mode(server)}\nstaleness = 1", "steps": 4}
    run_plan = compile_tiny(home, tmp_path / "run", **changes)
    run_on_ranks(_compare_ahead, 1, encode(run_plan), vllm_servers.KEY, timeout_s=300)
    lines = (tmp_path / "run" / "completions.jsonl").read_text().splitlines()
    versions = {(line["step"], line["weights_version"]) for line in map(json.loads, lines)}
    assert versions == {(1, 0), (2, 0), (3, 1), (4, 2)}


def _compare_ahead(lock: str, key: str) -> None:
    os.environ["VLLM_API_KEY"] = key
    session = open_silently(lock)
    executor = Executor(session)
    expected = {}
    for step in range(1, 5):
        mine = examples_of_rank(session, step + 1)
        drawn = sample_responses(session, Role.STUDENT, mine, session.plan.sampling, step + 1)
        expected[step + 1] = {e.row: r for e, r in zip(mine, drawn, strict=True)}
        executor._run_step(step)
        assert executor.ahead.has(step + 1) == (step < 4)
        if step < 4:
            executor.ahead._settle(step)
            found = executor.ahead.drawn[step + 1]
            assert {row: c.tokens for row, c in found.items()} == expected[step + 1]
    session.engine.close()


def test_a_resumed_run_that_draws_ahead_is_the_one_that_never_stopped(server, home, tmp_path):
    changes = ON_POLICY | {"lmbda": 0.7, "steps": 6, "save_interval": 3, "distill": ""}
    changes["generation"] = f"{mode(server)}\nstaleness = 1"
    students = []
    for name, starts in (("whole", [0]), ("stopped", [0, 3])):
        run_plan = compile_tiny(home, tmp_path / name, **changes)
        for start in starts:
            run_on_ranks(_run, 1, encode(run_plan), start, vllm_servers.KEY, timeout_s=300)
            if starts != [0] and start == 0:
                shutil.rmtree(tmp_path / name / "checkpoints" / "step_6")
        saved = tmp_path / name / "checkpoints" / "step_6" / "student" / "model.safetensors"
        students.append(load_file(saved))
    pending = tmp_path / "stopped" / "checkpoints" / "step_3" / "state" / "responses.json"
    assert json.loads(pending.read_text()).keys() == {"4"}
    for name, tensor in students[0].items():
        assert torch.equal(tensor, students[1][name]), name


def _run(lock: str, start_step: int, key: str) -> None:
    os.environ["VLLM_API_KEY"] = key
    Executor(open_silently(lock, start_step)).run(start_step)


def test_a_server_that_is_not_up_is_found_before_a_rank_starts(home, tmp_path):
    url = vllm_servers.free_url()
    run_plan = compile_tiny(home, tmp_path / "run", **ON_POLICY | {"generation": mode(url)})
    with pytest.raises(UserError) as refusal:
        run(run_plan)
    (found,) = refusal.value.diagnostics
    assert found.code == "GK540"
    assert url in found.message
    assert not (tmp_path / "run").exists()


def test_another_key_is_found_before_a_rank_starts(server, home, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "another")
    run_plan = compile_tiny(home, tmp_path / "run", **ON_POLICY | {"generation": mode(server)})
    assert _code_of(lambda: run(run_plan)) == "GK541"


def test_a_server_of_another_student_is_found_before_a_rank_starts(
    server, home, tmp_path, monkeypatch
):
    monkeypatch.setenv("VLLM_API_KEY", vllm_servers.KEY)
    tiny.save_qwen2(home / "other" / "student", **SIZES | {"num_layers": 3}, seed=6)
    tiny.save_qwen2(home / "other" / "teacher", **SIZES, seed=6)
    tiny.save_rows(home / "other" / "rows.jsonl")
    changes = ON_POLICY | {"generation": mode(server)}
    run_plan = compile_tiny(home / "other", tmp_path / "run", **changes)
    with pytest.raises(UserError) as refusal:
        run(run_plan)
    (found,) = refusal.value.diagnostics
    assert found.code == "GK542"
    assert "`num_hidden_layers` is 2, and the student's 3" in found.notes


def test_every_route_asks_for_the_key(server):
    for method, path in (
        ("GET", "/v1/models"),
        ("POST", "/start_weight_update"),
        ("POST", "/collective_rpc"),
        ("POST", "/inference/v1/generate"),
        ("GET", "/docs"),
        ("GET", "/metrics"),
    ):
        for headers in ({}, {"Authorization": "Bearer another"}):
            answer = requests.request(
                method, server.url + path, json={}, headers=headers, timeout=9
            )
            assert answer.status_code == 401, path
    assert requests.get(server.url + "/health", timeout=9).ok


def test_weights_that_give_nan_are_seen(server, home):
    """Behind the others: the server's cache keeps NaN that later prompts may meet."""
    weights = tensors(home / "trained", lambda tensor: tensor * math.nan)
    served = engine(server.url, weights=weights)
    served.refit(iter(weights.items()), 1)
    assert _code_of(lambda: served.generate(requests_of(), GREEDY)) == "GK570"
    served.close()


def test_ctrl_c_leaves_no_process(server):
    """The last test of this file: the server is gone behind it."""
    server.signal(signal.SIGINT)
    assert server.wait_until_gone() == []


def _code_of(act) -> str:
    with pytest.raises(UserError) as refused:
        act()
    return refused.value.diagnostics[0].code
