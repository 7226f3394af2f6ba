"""A file of samples as `gkdplan sample` writes it for models/tiny and data/rows.jsonl."""

import json
from dataclasses import replace
from pathlib import Path

from gkdplan.cli.compiling import TOOL
from gkdplan.facts.rows import read_data_file
from gkdplan.facts.tokenizer import read_tokenizer
from gkdplan.facts.weights import fingerprint
from gkdplan.samples import (
    TEXT_VERSION,
    Manifest,
    SampledFile,
    manifest_record,
    prompt_fingerprint,
    text_fingerprint,
)
from gkdplan.vocab import Dtype, Engine, Role


def write_samples(root: Path) -> None:
    """data/samples.jsonl; the student's beside it, and those of a teacher trained further."""
    own = _manifest(root)
    samples = [
        {
            "row": row,
            "prompt_sha256": prompt_fingerprint((row,)),
            "response": [row],
            "text": "",
            "finish_reason": "length",
        }
        for row in range(own.data[0].num_rows)
    ]
    for name, manifest in (
        ("samples", own),
        ("students_samples", replace(own, role=Role.STUDENT)),
        ("older_samples", replace(own, weights="0f" * 32)),
        ("foreign_samples", replace(own, tokenizer="0f" * 32, chat_template=None)),
    ):
        lines = map(json.dumps, (manifest_record(manifest), *samples))
        (root / "data" / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))


def _manifest(root: Path) -> Manifest:
    model = root / "models" / "tiny"
    tokenizer, _ = read_tokenizer(str(model), "tiny", {}, {})
    rows, _ = read_data_file(str(root / "data" / "rows.jsonl"))
    assert tokenizer is not None
    assert rows is not None
    return Manifest(
        version=TEXT_VERSION,
        tool=TOOL,
        role=Role.TEACHER,
        model="models/tiny",
        revision=None,
        weights=fingerprint(str(model), None),
        dtype=Dtype.FP32,
        tokenizer=tokenizer.fingerprint,
        chat_template=text_fingerprint(tokenizer.chat_template),
        engine=Engine.MEGATRON,
        temperature=0.9,
        top_p=1.0,
        top_k=None,
        max_completion_length=16,
        seed=42,
        max_length=16,
        truncation="delete",
        data=(SampledFile("data/rows.jsonl", rows.num_rows, rows.fingerprint),),
    )
