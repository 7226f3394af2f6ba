import json
import subprocess
import sys
from pathlib import Path

import pytest

from gkdplan.diagnostics import Diagnostic, Severity
from gkdplan.facts.lookup import look_up
from gkdplan.facts.model import Facts, ModelRef
from gkdplan.vocab import Role

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    return cache


def look(
    student: object,
    teacher: object,
    *,
    device: str = "cpu",
    train: tuple[str, ...] = (),
    eval: tuple[str, ...] = (),
    revision: str | None = None,
) -> tuple[Facts | None, tuple[Diagnostic, ...]]:
    return look_up(
        ModelRef(Role.STUDENT, str(student), revision),
        ModelRef(Role.TEACHER, str(teacher), None),
        device,
        train,
        eval,
    )


def places(findings: tuple[Diagnostic, ...]) -> list[tuple[str, str | None]]:
    return [(finding.code, finding.path) for finding in findings]


def cached(cache: Path, model: Path, hub_id: str, reference: str = "main") -> Path:
    """Put a model's directory into a hub cache."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / reference).write_text(COMMIT)
    (repository / "snapshots").mkdir()
    return model.rename(repository / "snapshots" / COMMIT)


def test_everything_is_looked_up(model_directory: Path, rows_file: Path) -> None:
    facts, findings = look(
        model_directory,
        model_directory,
        device="h100-80gb",
        train=(f"{rows_file}#2",),
        eval=(str(rows_file),),
    )
    assert findings == ()
    assert facts is not None
    student = facts.student
    assert student.name == str(model_directory)
    assert student.origin == "tiny/config.json"
    assert student.weights is not None
    assert student.weights.num_parameters == student.shape.num_parameters
    assert student.tokenizer is not None
    assert (student.tokenizer.size, student.tokenizer.eos_token) == (6, "</s>")
    assert facts.teacher is student
    assert facts.device.key == "h100-80gb"
    assert [file.num_rows for file in (*facts.train, *facts.eval)] == [2, 3]


def test_all_findings_are_given_at_once_with_their_places(
    tmp_path: Path, model_directory: Path, rows_file: Path
) -> None:
    (model_directory / "config.json").write_text("{")
    facts, findings = look(
        tmp_path / "nowhere",
        model_directory,
        device="tpu-v5",
        train=(str(rows_file), "none.jsonl", "x.txt"),
        eval=("x.jsonl#0",),
    )
    assert facts is None
    assert places(findings) == [
        ("GK101", "student.model"),
        ("GK103", "teacher.model"),
        ("GK120", "cluster.device"),
        ("GK460", "data.train[1]"),
        ("GK464", "data.train[2]"),
        ("GK461", "data.eval[0]"),
    ]


def test_a_directory_without_weights_and_tokenizer_compiles_with_notes(
    model_directory: Path,
) -> None:
    for name in ("model.safetensors", "tokenizer.json"):
        (model_directory / name).unlink()
    facts, findings = look(model_directory, model_directory)
    assert facts is not None
    assert (facts.student.weights, facts.student.tokenizer) == (None, None)
    assert places(findings) == [("GK113", "student.model"), ("GK110", "student.model")]
    assert all(finding.severity is Severity.NOTE for finding in findings)


def test_errors_of_a_model_that_both_roles_name_are_given_for_both(model_directory: Path) -> None:
    (model_directory / "tokenizer.json").unlink()
    (model_directory / "model.safetensors").write_bytes(b"")
    facts, findings = look(model_directory, model_directory)
    assert facts is None
    assert places(findings) == [
        ("GK113", "student.model"),
        ("GK106", "student.model"),
        ("GK106", "teacher.model"),
    ]


def test_a_bad_config_does_not_hide_a_bad_tokenizer(model_directory: Path) -> None:
    config = json.loads((model_directory / "config.json").read_text())
    (model_directory / "config.json").write_text(json.dumps(config | {"hidden_size": 0}))
    (model_directory / "tokenizer.json").write_text("{}")
    _, findings = look(model_directory, "Qwen/Qwen3-8B")
    assert [code for code, _ in places(findings)] == ["GK104", "GK112", "GK111"]


def test_a_token_beyond_the_embedding_is_refused(model_directory: Path) -> None:
    settings = {"eos_token": "</s>", "added_tokens_decoder": {"8": {"content": "<x>"}}}
    (model_directory / "tokenizer_config.json").write_text(json.dumps(settings))
    facts, findings = look(model_directory, "Qwen/Qwen3-8B")
    assert facts is None
    assert findings[0].code == "GK114"
    assert "'<x>' with id 8, and its embedding has 8 rows" in findings[0].message


def test_a_path_is_relative_to_the_working_directory(
    model_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model_directory)
    facts, findings = look("../tiny", ".")
    assert findings == ()
    assert facts is not None
    assert facts.teacher.origin == "tiny/config.json"


def test_a_hub_id_is_found_in_the_local_cache_before_the_bundled_facts(
    model_directory: Path, empty_hub_cache: Path
) -> None:
    cached(empty_hub_cache, model_directory, "Qwen/Qwen3-8B")
    facts, findings = look("Qwen/Qwen3-8B", "Qwen/Qwen3-8B")
    assert findings == ()
    assert facts is not None
    assert facts.student.shape.hidden_size == 16
    assert facts.student.origin == "Qwen3-8B/config.json"
    assert facts.student.weights is not None


@pytest.mark.parametrize("revision", [COMMIT, "v2"])
def test_a_revision_is_a_commit_or_a_reference_of_the_cache(
    model_directory: Path, empty_hub_cache: Path, revision: str
) -> None:
    cached(empty_hub_cache, model_directory, "org/tiny", reference="v2")
    facts, _ = look("org/tiny", "Qwen/Qwen3-8B", revision=revision)
    assert facts is not None
    assert facts.student.shape.hidden_size == 16


@pytest.mark.parametrize("revision", ["v3", "../../..", "", "..", "\0", "{elsewhere}"])
def test_a_revision_that_the_cache_lacks_is_not_another_one(
    tmp_path: Path, model_directory: Path, empty_hub_cache: Path, revision: str
) -> None:
    snapshot = cached(empty_hub_cache, model_directory, "org/tiny", reference="v2")
    for elsewhere in (tmp_path, snapshot.parent.parent):
        (elsewhere / "config.json").write_text((snapshot / "config.json").read_text())
    revision = revision.format(elsewhere=tmp_path)
    facts, findings = look("org/tiny", "Qwen/Qwen3-8B", revision=revision)
    assert facts is None
    assert findings[0].code == "GK101"


@pytest.mark.parametrize(
    ("env", "cache"),
    [
        ({"HF_HOME": "{tmp}/a"}, "a/hub"),
        ({"XDG_CACHE_HOME": "{tmp}/b"}, "b/huggingface/hub"),
        ({"HOME": "{tmp}/c"}, "c/.cache/huggingface/hub"),
    ],
)
def test_the_cache_lies_where_the_hub_library_puts_it(
    tmp_path: Path, model_directory: Path, monkeypatch: pytest.MonkeyPatch, env: dict, cache: str
) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path))
    cached(tmp_path / cache, model_directory, "org/tiny")
    facts, _ = look("org/tiny", "org/tiny")
    assert facts is not None


def test_bundled_facts_come_with_a_note() -> None:
    facts, findings = look("Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-7B-Instruct")
    assert facts is not None
    assert facts.student.shape.num_parameters == 3_085_938_688
    assert facts.teacher.origin == "bundled facts"
    assert places(findings) == [("GK111", "student.model"), ("GK111", "teacher.model")]
    assert "weights and tokenizer were not seen" in findings[0].message


def test_a_revision_of_a_bundled_model_is_said_to_be_unseen() -> None:
    _, findings = look("Qwen/Qwen3-8B", "Qwen/Qwen3-8B", revision="v9")
    assert "nor was revision 'v9'" in findings[0].message
    assert len(findings) == 2


def test_a_revision_of_a_directory_is_refused(model_directory: Path) -> None:
    facts, findings = look(model_directory, "Qwen/Qwen3-8B", revision="main")
    assert facts is None
    assert places(findings) == [("GK115", "student.revision"), ("GK111", "teacher.model")]


@pytest.mark.parametrize(
    ("model", "meant"),
    [
        ("qwen2.5-7b", "Qwen/Qwen2.5-7B"),
        ("qwen/qwen3-8b", "Qwen/Qwen3-8B"),
        ("Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B"),
        ("./HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"),
    ],
)
def test_a_missing_model_names_the_nearest_bundled_one(model: str, meant: str) -> None:
    _, findings = look(model, "Qwen/Qwen3-8B")
    assert findings[0].code == "GK101"
    assert findings[0].help[0] == f'did you mean "{meant}"?'


def test_a_missing_directory_names_the_nearest_beside_it(model_directory: Path) -> None:
    _, findings = look(model_directory.parent / "tinny", "Qwen/Qwen3-8B")
    assert findings[0].help == (f'did you mean "{model_directory}"?',)


def test_a_missing_hub_id_tells_how_to_fetch_it() -> None:
    _, findings = look("org/unheard-of-model", "Qwen/Qwen3-8B")
    assert findings[0].help == ("`hf download org/unheard-of-model` puts it into the cache",)


def test_a_file_in_a_models_place_is_refused(model_directory: Path) -> None:
    _, findings = look(model_directory / "config.json", "Qwen/Qwen3-8B")
    assert findings[0].code == "GK101"


def test_a_directory_without_a_config_is_refused(tmp_path: Path) -> None:
    _, findings = look(tmp_path, "Qwen/Qwen3-8B")
    assert findings[0].code == "GK103"
    assert findings[0].message == f"{tmp_path.name}/config.json is not there"


def test_looking_up_needs_only_the_standard_library() -> None:
    program = (
        "import sys, gkdplan.facts.lookup\n"
        "heavy = {'torch', 'pydantic', 'numpy', 'transformers', 'rich', 'urllib.request', "
        "'tempfile', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
