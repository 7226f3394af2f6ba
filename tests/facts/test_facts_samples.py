"""What a file of samples says of itself, and what is no such file."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from gkdplan.facts.samples import read_samples_file
from gkdplan.samples import Manifest, SampledFile, manifest_record
from gkdplan.vocab import Dtype, Engine, Role

MANIFEST = Manifest(
    version=1,
    tool="gkdplan 0.1.0",
    role=Role.TEACHER,
    model="teacher",
    revision=None,
    weights=None,
    dtype=Dtype.FP32,
    tokenizer="ab" * 32,
    chat_template=None,
    engine=Engine.MEGATRON,
    temperature=1.0,
    top_p=1.0,
    top_k=None,
    max_completion_length=8,
    seed=42,
    max_length=16,
    truncation="delete",
    data=(SampledFile("rows.jsonl", 2, "cd" * 32),),
)
FIRST = json.dumps(manifest_record(MANIFEST))


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_the_manifest_the_rows_and_the_files_fingerprint_are_read(tmp_path):
    text = f'{FIRST}\n{{"row": 0}}\n{{"row": 1}}\n'
    found, findings = read_samples_file(written(tmp_path / "f.jsonl", text), "ef" * 32)
    assert findings == ()
    assert found is not None
    assert (found.manifest, found.num_rows, found.teacher_weights) == (MANIFEST, 2, "ef" * 32)
    assert found.fingerprint == sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the file is empty"),
        ("{", "is not JSON at line 1"),
        ("[]\n", "does not begin with what `gkdplan sample` writes"),
        ('{"prompt": "a"}\n', "does not begin with what `gkdplan sample` writes"),
        (
            FIRST.replace('"version": 1', '"version": 3'),
            "samples of format 3, not of format 1 or 2",
        ),
        (FIRST.replace('"teacher"', '"parrot"', 1), "has a manifest whose `role` is 'parrot'"),
        (FIRST.replace('"top_p": 1.0', '"top_p": true'), "has a manifest whose `top_p` is True"),
        (FIRST.replace('"seed": 42, ', ""), "has a manifest with another set of keys: `seed`"),
        (FIRST.replace('"num_rows": 2', '"num_rows": "2"'), "has a manifest whose `num_rows` is"),
    ],
)
def test_what_is_no_file_of_samples_is_said_to_be_none(tmp_path, text, reason):
    found, (finding,) = read_samples_file(written(tmp_path / "f.jsonl", text), None)
    assert found is None
    assert (finding.code, finding.path) == ("GK440", "teacher.samples")
    assert reason in finding.message


def test_a_file_that_is_not_there_is_named(tmp_path):
    _, (finding,) = read_samples_file(str(tmp_path / "none.jsonl"), None)
    assert "the file is not there" in finding.message


def test_every_field_survives_the_file(tmp_path):
    other = replace(
        MANIFEST, role=Role.STUDENT, revision="v2", weights="1", dtype=Dtype.BF16, top_k=5,
        chat_template="2", engine=Engine.VLLM, temperature=0.5, data=MANIFEST.data * 2,
    )  # fmt: skip
    text = json.dumps(manifest_record(other)) + "\n"
    found, _ = read_samples_file(written(tmp_path / "f.jsonl", text), None)
    assert found is not None
    assert found.manifest == other
