"""The log of a run: one line a record, no step twice, in whatever way the run was interrupted."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from gkdplan.runtime.boards import open_boards
from gkdplan.runtime.metrics import MetricsLog
from gkdplan.vocab import Phase, Source


def step_record(step, loss=1.5):
    return {
        "step": step,
        "loss": loss,
        "lr": 1e-4,
        "grad_norm": 0.5,
        "source": Source.TEACHER,
        "num_tokens": 64,
        "completion_tokens_mean": 16.0,
        "time_s": {Phase.GENERATE: 2.5, Phase.STUDENT: 1.0},
        "peak_bytes": {Phase.STUDENT: 2**20},
        "planned_peak_bytes": {Phase.STUDENT: 2**20},
    }


def log_steps(run_dir, steps, start_step=0, loggers=(), loss=1.5):
    boards = open_boards(loggers, run_dir, start_step, "name", "fingerprint")
    log = MetricsLog(run_dir, boards, start_step, enabled=True)
    if start_step == 0:
        log.log_eval(step=0, jsd=0.5, cross_entropy=3.0, top1_agreement=0.5, num_tokens=10)
        log_answer(log, 0)
    for step in steps:
        log.log_completion(
            step=step,
            source=Source.TEACHER,
            row=step,
            prompt="<user>Wo?<assistant>",
            question="Wo?",
            completion="Über\u2028dort\n",
            num_tokens=4,
            weights_version=0,
        )
        log.log_step(**step_record(step, loss))
    return log


def log_answer(log, step):
    said = {"question": "Wo?", "expected": "# hier", "answer": "<b>dort</b>\n"}
    log.log_answer(step=step, row=7, num_tokens=4, **said)


def lines_of(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def steps_of(path):
    return [line["step"] for line in lines_of(path)]


def test_a_step_s_line_is_there_as_soon_as_it_is_logged(tmp_path):
    log = log_steps(tmp_path, [1])
    _, line = lines_of(tmp_path / "metrics.jsonl")
    assert line == {
        "step": 1,
        "loss": 1.5,
        "lr": 1e-4,
        "grad_norm": 0.5,
        "source": "teacher",
        "num_tokens": 64,
        "completion_tokens_mean": 16.0,
        "time_s": {"generate": 2.5, "student": 1.0},
        "peak_bytes": {"student": 1048576},
        "planned_peak_bytes": {"student": 1048576},
    }
    log.close()


def test_an_evaluation_s_line(tmp_path):
    log_steps(tmp_path, []).close()
    (line,) = lines_of(tmp_path / "metrics.jsonl")
    assert line == {
        "step": 0,
        "eval": {"jsd": 0.5, "cross_entropy": 3.0, "top1_agreement": 0.5, "num_tokens": 10},
    }


def test_a_completion_s_line_keeps_every_sign_of_its_text(tmp_path):
    log_steps(tmp_path, [1]).close()
    (line,) = lines_of(tmp_path / "completions.jsonl")
    assert line == {
        "step": 1,
        "source": "teacher",
        "row": 1,
        "prompt": "<user>Wo?<assistant>",
        "question": "Wo?",
        "completion": "Über\u2028dort\n",
        "num_tokens": 4,
        "weights_version": 0,
    }


def test_resuming_drops_what_an_earlier_attempt_logged_behind_the_checkpoint(tmp_path):
    log_steps(tmp_path, range(1, 6)).close()
    log_steps(tmp_path, range(4, 7), start_step=3, loss=9.0).close()
    assert steps_of(tmp_path / "metrics.jsonl") == [0, 1, 2, 3, 4, 5, 6]
    assert steps_of(tmp_path / "completions.jsonl") == [1, 2, 3, 4, 5, 6]
    losses = [line["loss"] for line in lines_of(tmp_path / "metrics.jsonl")[1:]]
    assert losses == [1.5, 1.5, 1.5, 9.0, 9.0, 9.0]


def test_starting_over_leaves_nothing_of_the_earlier_attempt(tmp_path):
    log_steps(tmp_path, [1, 2]).close()
    log_steps(tmp_path, [1]).close()
    assert steps_of(tmp_path / "metrics.jsonl") == [0, 1]


@pytest.mark.parametrize("num_lost", [1, 20])
def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path, num_lost):
    log_steps(tmp_path, [1, 2, 3]).close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-num_lost])
    MetricsLog(tmp_path, (), 3, enabled=True).close()
    assert steps_of(path) == [0, 1, 2]


def test_other_ranks_write_nothing(tmp_path):
    log = MetricsLog(tmp_path, (), 0, enabled=False)
    log.log_step(**step_record(1))
    log.log_eval(step=1, jsd=0.5, cross_entropy=3.0, top1_agreement=0.5, num_tokens=10)
    log.log_completion(
        step=1,
        source=Source.STUDENT,
        row=0,
        prompt="",
        question="",
        completion="",
        num_tokens=0,
        weights_version=0,
    )
    log_answer(log, 1)
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path):
    log_steps(tmp_path, range(1, 6), loggers=("tensorboard",)).close()
    log_steps(tmp_path, range(4, 7), 3, loggers=("tensorboard",), loss=9.0).close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    curve = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert curve == [(1, 1.5), (2, 1.5), (3, 1.5), (4, 9.0), (5, 9.0), (6, 9.0)]
    assert events.Scalars("eval/jsd")[0].value == 0.5
    (answer,) = events.Tensors("eval/row_7/text_summary")
    words = answer.tensor_proto.string_val[0].decode().split("\n")
    assert words[::2][:3] == ["    Wo?", "    expected: # hier", "    student: <b>dort</b>"]
    assert events.Scalars("time_s/generate")[0].value == 2.5
    assert events.Scalars("train/loss_from/teacher")[0].value == 1.5


def test_tensorboard_is_written_only_where_the_plan_asks(tmp_path):
    log_steps(tmp_path, [1]).close()
    assert not (tmp_path / "tensorboard").exists()


def test_wandb_has_each_step_offline_and_a_resumed_run_has_the_same_id(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for start_step, steps, loss in ((0, [1, 2, 3], 1.5), (3, [4], 9.0)):
        time.sleep(1)  # wandb names an offline run after the second in which it began
        code = f"log_steps(run_dir, {steps}, {start_step}, ('wandb',), {loss}).close()"
        _in_a_process_of_its_own(code, tmp_path)
    runs = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len({file.name for file in runs}) == 1
    losses = [
        (line["_step"], line["train/loss"])
        for file in runs
        for line in history_of(file)
        if "train/loss" in line
    ]
    assert losses == [(1, 1.5), (2, 1.5), (3, 1.5), (4, 9.0)]
    assert history_of(runs[0])[0]["eval/jsd"] == 0.5
    (page,) = (tmp_path / "wandb").rglob("*.html")
    assert "Wo?\n\nexpected: # hier\n\nstudent: &lt;b&gt;dort&lt;/b&gt;" in page.read_text()


def _in_a_process_of_its_own(code, run_dir):
    """As a resumed run is one."""
    path = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})"
    imports = "from pathlib import Path; from test_metrics_log import log_steps"
    text = f"{path}; {imports}; run_dir = Path({str(run_dir)!r}); {code}"
    subprocess.run([sys.executable, "-c", text], check=True, timeout=120)


def history_of(file):
    """The rows of an offline run: protobuf records in LevelDB's log format, blocks of 32 KiB."""
    content, at, payload, rows = file.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        room = 2**15 - at % 2**15
        if room < 7:
            at += room
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        payload += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record, payload = Record.FromString(payload), b""
            if record.HasField("history"):
                items = record.history.item
                rows.append({i.key or i.nested_key[0]: json.loads(i.value_json) for i in items})
    return rows
