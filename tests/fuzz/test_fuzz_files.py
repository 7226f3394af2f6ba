"""Thousands of damaged model files: each ends in findings or in a verdict, and changes nothing."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from random import Random

import pytest
from bad_plan_world import build_world
from deeds import deeds
from file_mutations import MUTATIONS, mutated_json

from gkdplan.cli.main import run
from gkdplan.facts.known import find_known, known_ids

PLAN = """\
name = "damaged"
[cluster]
device = "{device}"
[student]
model = "damaged"
dtype = "fp32"
[teacher]
model = "{kind}"
[generation]
max_completion_length = 8
[data]
train = ["data/{rows}.jsonl"]
max_length = 16
[batch]
global = 4
[run]
steps = 1
"""
DEVICES = ["cpu", "h100-80gb"]
KINDS = {"tiny": "rows", "tiny_moe": "rows", "byte_level": "rows", "seeing": "seeing"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def here(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    monkeypatch.setenv("HF_HUB_CACHE", str(world / "hub"))


def check(seed: int, kind: str, rows: str) -> bool:
    """Whether `check` takes what stands in damaged/."""
    Path("plan.toml").write_text(PLAN.format(device=DEVICES[seed % 2], kind=kind, rows=rows))
    out, err = io.StringIO(), io.StringIO()
    with deeds() as done, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(["check", "plan.toml", "--json"])
    assert status in (0, 1), f"seed {seed}: {err.getvalue()}"
    assert done == []
    for finding in json.loads(out.getvalue())["diagnostics"]:
        assert finding["message"].isprintable(), f"seed {seed}"
    return status == 0


def check_a_damaged(name: str, seed: int) -> bool:
    """One file of a whole model is damaged."""
    random = Random(seed)
    kind = random.choice(list(KINDS))
    shutil.copytree(f"models/{kind}", "damaged", dirs_exist_ok=True)
    path = Path("damaged", name)
    path.write_bytes(random.choice(MUTATIONS[name])(path.read_bytes(), random))
    return check(seed, f"models/{kind}", KINDS[kind])


def check_a_damaged_family(seed: int) -> bool:
    """The config of a well-known model of any family is damaged, for student and teacher."""
    random = Random(seed)
    known = find_known(random.choice(known_ids()))
    assert known is not None
    shutil.rmtree("damaged", ignore_errors=True)
    Path("damaged").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path("models/tiny", name), "damaged")
    config = json.dumps(known.config).encode()
    Path("damaged/config.json").write_bytes(mutated_json(config, random))
    return check(seed, "damaged", "rows")


@pytest.mark.parametrize("name", MUTATIONS)
def test_no_damage_to_a_file_brings_a_traceback_or_a_deed(name: str) -> None:
    good = [check_a_damaged(name, seed) for seed in range(250)]
    assert 0 < sum(good) < len(good)


def test_no_damage_to_a_familys_config_brings_a_traceback_or_a_deed() -> None:
    good = [check_a_damaged_family(seed) for seed in range(250)]
    assert 0 < sum(good) < len(good)


@pytest.mark.grid
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", MUTATIONS)
def test_no_damage_among_many_brings_a_traceback_or_a_deed(name: str) -> None:
    for seed in range(1000, 5000):
        check_a_damaged(name, seed)


@pytest.mark.grid
@pytest.mark.timeout(1800)
def test_no_damage_to_many_configs_brings_a_traceback_or_a_deed() -> None:
    for seed in range(1000, 5000):
        check_a_damaged_family(seed)
