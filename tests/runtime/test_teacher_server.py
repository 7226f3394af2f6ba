"""A teacher behind a real server of vLLM gives what the same teacher on the ranks gives."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from gloo_ranks import launched_as_forks, run_on_ranks
from hf_reference import load
from sampled import sample_decided
from silent_session import open_silently
from teacher_servers import Gate, free_port, kill, running, served
from tiny_latents import GROUPS, OF_VLLM
from tiny_plans import compile_plan_text, plan_text

from gkdplan.cli.sample import decide
from gkdplan.diagnostics import Diagnostic, UserError
from gkdplan.runplan.codec import encode
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.models import TeacherAddress, TeacherServer
from gkdplan.runplan.sampling import ServerLimits
from gkdplan.runtime import launch
from gkdplan.runtime.data.batch import Row
from gkdplan.runtime.data.chat import load_chat
from gkdplan.runtime.data.examples import Split, load_examples
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.http_server import API_KEY
from gkdplan.runtime.loss import TopK
from gkdplan.runtime.rollout.engine import Request
from gkdplan.runtime.rollout.sampling import row_seed
from gkdplan.runtime.saved.run_directory import RunDirectory, read_metrics
from gkdplan.runtime.serving import command
from gkdplan.runtime.teacher.payload import teacher_payloads
from gkdplan.runtime.teacher.scores import Question
from gkdplan.runtime.teacher.server import ServedTeacher
from gkdplan.runtime.teacher.server_checks import check_servers
from gkdplan.runtime.teacher.server_samples import ServedSampler
from gkdplan.vocab import Role

TOP_K = 16
NUM_TOKENS = 300
"""Of the tokenizer, and rows of the teacher's embedding."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    tiny.save_qwen2(home / "teacher", hidden=64, num_heads=2, vocab_size=NUM_TOKENS, seed=1)
    tiny.save_llama(home / "student", seed=2)
    tiny.save_rows(home / "rows.jsonl")
    return home


@pytest.fixture(scope="module")
def url(home) -> Iterator[str]:
    with served(home / "teacher") as url:
        yield url


def behind(home: Path, output: Path | str, server: str, **changes: object) -> str:
    """The text of a tiny plan with its teacher behind `server`, keys of [teacher.server]."""
    table = f"[teacher.server]\ntop_k = {TOP_K}\n{server}"
    text = plan_text(home, output, teacher=table, payload="auto", **changes)
    return text.replace('offload = "none"\n', "")


def beside(home: Path, output: Path, **changes: object) -> RunPlan:
    """The same plan with the teacher on the ranks."""
    changes = {"payload": "top_k", "distill": f"top_k = {TOP_K}", **changes}
    return compile_plan_text(plan_text(home, output, **changes))


def test_the_likeliest_ids_are_those_of_the_teacher_on_the_ranks(home, url, tmp_path):
    """Also where ranks share the rows, the vocabulary or the layers."""
    layouts = [{"tensor": 2}, {"parallel": "context = 2"}, {"parallel": "pipeline = 2"}]
    plans = [beside(home, tmp_path / "run", devices=2, **layout) for layout in layouts]
    run_on_ranks(_compare_payloads, 2, url, [encode(plan) for plan in plans])


def test_rows_of_the_embedding_that_no_token_has_are_passed_over(home, url, tmp_path):
    run_on_ranks(_compare_with_hugging_face, 1, url, str(home), str(tmp_path / "run"))


def test_a_run_is_that_of_the_teacher_on_the_ranks(home, url, tmp_path):
    """Learning from the dataset and from the student's samples, and evaluated; a held-out row is
    scored as a row that is trained on."""
    changes = {"lmbda": 0.5, "steps": 4, "save_interval": 4}
    text = behind(home, tmp_path / "behind", f'url = "{url}"', **changes)
    plans = [compile_plan_text(text), beside(home, tmp_path / "beside", **changes)]
    for plan in plans:
        run_on_ranks(_run, 1, encode(plan))
    behind_server, on_ranks = (read_metrics(tmp_path / name / "metrics.jsonl") for name in
                               ("behind", "beside"))  # fmt: skip
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in
              (behind_server, on_ranks)]  # fmt: skip
    assert len(losses[0]) == 4
    assert {line["source"] for line in behind_server if "loss" in line} == {"student", "dataset"}
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    held_out = [[line["eval"]["cross_entropy"] for line in lines if "eval" in line] for lines in
                (behind_server, on_ranks)]  # fmt: skip
    assert held_out[0] == pytest.approx(held_out[1], abs=1e-5)
    trained = _first_dataset_step_without_update(home, url, tmp_path)
    assert behind_server[0]["eval"]["jsd"] == pytest.approx(trained, abs=1e-5)


def test_each_row_asks_its_own_teacher(home, url, tmp_path):
    domains = ["maths", "code"] * 4
    rows = tmp_path / "rows.jsonl"
    lines = (home / "rows.jsonl").read_text().splitlines()
    rows.write_text(
        "".join(
            f'{line[:-1]}, "domain": "{domain}"}}\n'
            for line, domain in zip(lines, domains, strict=True)
        )
    )
    gates = {name: Gate(url) for name in ("maths", "code")}
    urls = ", ".join(f'{name} = "{gate.url}"' for name, gate in gates.items())
    server = f'urls = {{ {urls} }}\ncolumn = "domain"'
    text = behind(home, tmp_path / "run", server, steps=1, held_out="[]")
    plan = compile_plan_text(text.replace(str(home / "rows.jsonl"), str(rows)))
    check_servers(plan)
    run_on_ranks(_run, 1, encode(plan))
    chat = load_chat(home / "student")
    examples = load_examples(
        Split(plan.data.train, plan.data, 12, server=plan.models.teacher.server), chat
    )
    for name, gate in gates.items():
        gate.shut()
        own = [example for example in examples.examples if domains[example.row] == name]
        assert sorted(gate.scored) == sorted([*e.prompt, *(e.response or ())] for e in own)
        assert len(own) == 4


def test_its_greedy_samples_are_those_of_the_teacher_on_the_ranks(home, url, tmp_path):
    """Of two ranks each asks for half of the rows."""
    changes = {"lmbda": 0.0, "seq_kd": 1.0, "steps": 2, "save_interval": 2, "held_out": "[]"}
    greedy = "sampling_temperature = 0.0"
    text = behind(
        home, tmp_path / "behind", f'url = "{url}"', distill=greedy, devices=2, tensor=2, **changes
    )
    beside_it = beside(home, tmp_path / "beside", distill=f"top_k = {TOP_K}\n{greedy}", **changes)
    run_on_ranks(_run, 2, encode(compile_plan_text(text)))
    run_on_ranks(_run, 1, encode(beside_it))
    completions, metrics = (
        [read_metrics(tmp_path / name / file) for name in ("behind", "beside")]
        for file in ("completions.jsonl", "metrics.jsonl")
    )
    assert len(completions[0]) == 16
    assert completions[0] == completions[1]
    losses = [[line["loss"] for line in lines] for lines in metrics]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_its_samples_are_kept_in_a_file_as_the_teachers_on_the_ranks_are(home, url, tmp_path):
    greedy = {"distill": "sampling_temperature = 0.0", "rows": 6}
    plans = {
        "vllm": behind(home, "run", f'url = "{url}"', **greedy),
        "megatron": plan_text(home, "run", **greedy),
    }
    samples = {}
    for engine, text in plans.items():
        (tmp_path / "plan.toml").write_text(text)
        decided, file = (
            decide(str(tmp_path / "plan.toml"), Role.TEACHER),
            tmp_path / f"{engine}.jsonl",
        )
        assert decided.manifest.engine == engine
        with launched_as_forks():
            assert sample_decided(decided, file).exit_code == 0
        samples[engine] = file.read_text().splitlines()[1:]
    assert len(samples["vllm"]) == 8
    assert samples["vllm"] == samples["megatron"]


def test_its_samples_are_drawn_as_the_plan_says(home, url, tmp_path):
    """Each row from a seed of its own, so that a second run draws the same."""
    gate = Gate(url)
    changes = {"lmbda": 0.0, "seq_kd": 1.0, "steps": 1, "held_out": "[]"}
    generation = "top_p = 0.9\ntop_k = 20"
    drawn = []
    for name in ("first", "second"):
        text = behind(
            home, tmp_path / name, f'url = "{gate.url}"', generation=generation, **changes
        )
        run_on_ranks(_run, 1, encode(compile_plan_text(text)))
        drawn.append(read_metrics(tmp_path / name / "completions.jsonl"))
    gate.shut()
    assert drawn[0] == drawn[1]
    assert len({line["completion"] for line in drawn[0]}) == 8
    bodies = [body for body in gate.bodies if body.get("max_tokens") == 12][:8]
    assert {body["seed"] for body in bodies} == {row_seed(42, 1, row) for row in range(8)}
    named = {"temperature": 1.0, "top_p": 0.9, "top_k": 20, "stop_token_ids": [2]}
    assert all(named.items() <= body.items() for body in bodies)


def test_its_samples_have_the_distribution_of_the_documentation(home, url, plan):
    """Of 1,000 first tokens each id's share is within five standard errors of its probability; the
    second likeliest row of the embedding is no token's, and is never drawn."""
    num_ids, prompt, num_drawn = NUM_TOKENS - 4, [5, 250, 90, 222], 1000
    plan = replace(plan, models=replace(plan.models, vocab_size=num_ids))
    sampling = replace(plan.sampling, temperature=0.7, top_k=12, top_p=0.8, max_completion_length=1)
    sampler = ServedSampler(plan, plan.models.teacher.server, frozenset({2}), 0, 1)
    requests = [Request(prompt, row_seed(0, 0, row)) for row in range(num_drawn)]
    tokens = [completion.tokens[0] for completion in sampler.generate(requests, sampling)]
    with torch.no_grad():
        logits = load(home / "teacher")(torch.tensor([prompt])).logits[0, -1]
    assert logits.topk(2).indices[1] >= num_ids
    values, ids = (logits[:num_ids] / 0.7).topk(12)
    probs = values.softmax(-1)
    kept = probs.cumsum(-1) - probs < 0.8
    assert 1 < kept.sum() < 12
    probs = probs[kept] / probs[kept].sum()
    assert set(tokens) == {*ids[kept].tolist()}
    for token, prob in zip(ids[kept].tolist(), probs.tolist(), strict=True):
        error = (prob * (1 - prob) / num_drawn) ** 0.5
        assert abs(tokens.count(token) / num_drawn - prob) < 5 * error


def found(plan: RunPlan) -> Diagnostic:
    with pytest.raises(UserError) as refusal:
        check_servers(plan)
    (diagnostic,) = refusal.value.diagnostics
    assert diagnostic.path is not None
    assert diagnostic.path.startswith("teacher.server")
    return diagnostic


@pytest.fixture
def plan(home, url, tmp_path) -> RunPlan:
    return compile_plan_text(behind(home, tmp_path / "run", f'url = "{url}"'))


def test_a_server_that_can_do_all_is_not_complained_of(plan):
    check_servers(plan)


def test_a_server_that_is_not_up_is_named(home, tmp_path):
    nowhere = f"http://127.0.0.1:{free_port()}"
    missing = found(compile_plan_text(behind(home, tmp_path / "run", f'url = "{nowhere}"')))
    assert missing.code == "GK550"
    assert nowhere in missing.message


def test_a_server_that_wants_a_key_says_so(plan, monkeypatch):
    monkeypatch.delenv(API_KEY)
    refused = found(plan)
    assert refused.code == "GK552"
    assert API_KEY in refused.help[0]


def test_more_ids_than_the_server_was_started_for(plan):
    objective = replace(plan.objective, top_k=25)
    short = found(replace(plan, objective=objective))
    assert (short.code, short.path) == ("GK554", "teacher.server.top_k")
    assert "--max-logprobs 25" in short.help[0]


def test_rows_that_are_longer_than_the_servers(plan):
    """84 + 12 tokens, and the one that vllm adds."""
    check_servers(replace(plan, data=replace(plan.data, max_length=83)))
    long = found(replace(plan, data=replace(plan.data, max_length=84)))
    assert long.code == "GK555"
    assert "--max-model-len 97" in long.help[0]


@pytest.mark.parametrize(
    ("num_ids", "num_rows", "says"),
    [(NUM_TOKENS + 1, NUM_TOKENS + 1, "does not take the id 300"), (200, 250, "takes the id 251")],
)
def test_a_model_of_another_vocabulary(plan, num_ids, num_rows, says):
    shape = replace(plan.models.teacher.shape, vocab_size=num_rows)
    teacher = replace(plan.models.teacher, shape=shape)
    other = found(replace(plan, models=replace(plan.models, teacher=teacher, vocab_size=num_ids)))
    assert other.code == "GK553"
    assert says in other.message


def test_a_run_whose_server_is_gone_stops_and_goes_on_when_it_is_back(home, url, tmp_path):
    """Gone in the middle of step 4: two steps are saved, and the third is walked once more."""
    gate = Gate(url, shuts_after=3 * 8 + 4)
    server = f'url = "{gate.url}"\npatience_s = 1'
    changes = {"steps": 5, "save_interval": 2, "held_out": "[]", "devices": 2}
    plan = compile_plan_text(behind(home, tmp_path / "run", server, **changes))
    with launched_as_forks():
        stopped = launch.run(plan)
        with pytest.raises(UserError, match="GK550"):
            launch.run(plan)
        again = Gate(url, port=gate.port)
        finished = launch.run(plan)
        again.shut()
    (why,) = stopped.diagnostics
    assert (stopped.exit_code, why.code) == (4, "GK551")
    assert gate.url in why.message
    assert finished.exit_code == 0
    assert len(again.scored) == 3 * 8
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]


@pytest.mark.grid
def test_a_run_whose_real_server_is_killed_goes_on_with_a_new_one(home, url, tmp_path):
    """SIGKILL to all processes of a server, somewhere in a step."""
    port = free_port()
    server = f'url = "http://127.0.0.1:{port}"\npatience_s = 1'
    changes = {"steps": 40, "save_interval": 2, "held_out": "[]", "devices": 2}
    plan = compile_plan_text(behind(home, tmp_path / "run", server, **changes))
    directory = RunDirectory(tmp_path / "run")
    with launched_as_forks():
        with running(home / "teacher", port) as (_, process):
            killer = threading.Thread(
                target=_kill_after, args=(process, lambda: len(directory.saved_steps()) > 1)
            )
            killer.start()
            stopped = launch.run(plan)
            killer.join(timeout=30)
        assert (stopped.exit_code, stopped.diagnostics[0].code) == (4, "GK551")
        num_done = len(read_metrics(directory.metrics))
        assert 4 <= num_done < 40
        with running(home / "teacher", port):
            finished = launch.run(plan)
    assert finished.exit_code == 0
    assert [line["step"] for line in read_metrics(directory.metrics)] == list(range(1, 41))


def _kill_after(process: subprocess.Popen, is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.01)
    kill(process)


@pytest.mark.grid
def test_a_teacher_of_latents_is_asked_as_one_on_the_ranks_is(tmp_path):
    keys = (
        OF_VLLM | GROUPS | {"hidden": 64, "vocab_size": NUM_TOKENS, "max_position_embeddings": 256}
    )
    teacher = tiny.save_family(tmp_path / "teacher", "deepseek_v3", seed=1, **keys)
    config = json.loads((teacher / "config.json").read_text())
    config |= {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}  # as DeepSeek publishes it
    (teacher / "config.json").write_text(json.dumps(config))
    tiny.save_llama(tmp_path / "student", seed=2)
    tiny.save_rows(tmp_path / "rows.jsonl")
    plan = compile_plan_text(behind(tmp_path, tmp_path / "behind", 'url = "http://127.0.0.1:9"'))
    limits = ServerLimits(96, 16, 24, 1, None, 16 << 20)
    asked = [*command(plan, Role.TEACHER, "http://127.0.0.1:9", limits, is_guarded=False)]
    named = asked[asked.index("--attention-backend") :]
    with served(teacher, *named) as url:
        lock = encode(beside(tmp_path, tmp_path / "run"))
        run_on_ranks(_compare_payloads, 1, url, [lock])


@pytest.mark.grid
def test_two_real_teachers_each_give_their_own_distribution(home, url, tmp_path):
    tiny.save_qwen2(tmp_path / "other", hidden=64, num_heads=2, vocab_size=NUM_TOKENS, seed=7)
    with served(tmp_path / "other") as other:
        run_on_ranks(
            _compare_two_teachers,
            1,
            [url, other],
            [str(home), str(tmp_path)],
            str(tmp_path / "run"),
        )


def _compare_two_teachers(urls: list[str], homes: list[str], output: str) -> None:
    session = open_silently(encode(beside(Path(homes[0]), Path(output))))
    named = (TeacherAddress("one", urls[0]), TeacherAddress("other", urls[1]))
    server = TeacherServer(named, "domain", 5.0)
    tokens = [5, 250, 31], [7, 62, 204, 9, 150]
    questions = [Question(*tokens, "one"), Question(*tokens, "other")]
    payloads = ServedTeacher(session.plan, server, session.mesh).payloads([[q] for q in questions])
    for payload, directory in zip(
        payloads, (f"{homes[0]}/teacher", f"{homes[1]}/other"), strict=True
    ):
        with torch.no_grad():
            logits = load(Path(directory))(torch.tensor([[*tokens[0], *tokens[1]]])).logits[0, 2:-1]
        values, ids = logits.log_softmax(-1).topk(TOP_K)
        assert torch.equal(payload.states.ids_NK.long(), ids)
        torch.testing.assert_close(payload.states.log_probs_NK.double(), values, atol=1e-5, rtol=0)
    session.metrics.close()


def _run(lock: str) -> None:
    Executor(open_silently(lock)).run(0)


def _first_dataset_step_without_update(home: Path, url: str, tmp_path: Path) -> float:
    """The loss of the rows that are held out too, of a student that has not learnt yet."""
    text = behind(home, tmp_path / "first", f'url = "{url}"', lmbda=0.0, steps=1, held_out="[]")
    run_on_ranks(_run, 1, encode(compile_plan_text(text)))
    (line,) = read_metrics(tmp_path / "first" / "metrics.jsonl")
    return line["loss"]


def _compare_payloads(url: str, locks: list[str]) -> None:
    for lock in locks:
        session = open_silently(lock)
        size = session.plan.batch.micro_rows
        examples = session.train.examples[: 2 * size]
        rows = [Row(example.prompt, example.response or ()) for example in examples]
        expected = teacher_payloads(session.distillation, session.micro_batches(rows))
        server = TeacherServer((TeacherAddress(None, url),), None, 5.0)
        questions = [Question(row.prompt, row.response) for row in rows]
        actual = ServedTeacher(session.plan, server, session.mesh).payloads(
            [questions[:size], questions[size:]]
        )
        is_last_stage = session.mesh.pipeline_rank == session.mesh.pipeline_size - 1
        for one, other in zip(expected, actual, strict=True):
            assert (one is not None) == (other is not None) == is_last_stage
            if one is not None and other is not None:
                _compare(one.states, other.states)
        session.metrics.close()


def _compare(expected: TopK, actual: TopK) -> None:
    assert len(expected.ids_NK) > 0
    assert torch.equal(expected.ids_NK, actual.ids_NK)
    assert actual.ids_NK.dtype == torch.int32
    torch.testing.assert_close(actual.log_probs_NK, expected.log_probs_NK, atol=1e-5, rtol=0)
    torch.testing.assert_close(actual.tail_N, expected.tail_N, atol=1e-5, rtol=0)


def _compare_with_hugging_face(url: str, home: str, output: str) -> None:
    """With a vocabulary of four ids less than the teacher has rows, some of which are likely."""
    session = open_silently(encode(beside(Path(home), Path(output))))
    models = replace(session.plan.models, vocab_size=NUM_TOKENS - 4)
    plan = replace(session.plan, models=models)
    question = Question([5, 250, 31], [7, 62, 204, 9, 150, 125, 223, 40])
    server = TeacherServer((TeacherAddress(None, url),), None, 5.0)
    (payload,) = ServedTeacher(plan, server, session.mesh).payloads([[question]])
    tokens = torch.tensor([[*question.prompt, *question.response]])
    with torch.no_grad():
        logits = load(Path(home) / "teacher")(tokens).logits[0, len(question.prompt) - 1 : -1]
    log_probs = logits.log_softmax(-1)
    assert (log_probs.topk(TOP_K).indices >= NUM_TOKENS - 4).any(), "no such id is likely"
    values, ids = log_probs[:, : NUM_TOKENS - 4].topk(TOP_K)
    assert payload is not None
    assert torch.equal(payload.states.ids_NK.long(), ids)
    torch.testing.assert_close(payload.states.log_probs_NK.double(), values, atol=1e-5, rtol=0)
    session.metrics.close()
