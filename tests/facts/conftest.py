"""A model's directory written by hand: config, header-only weights, a six-token tokenizer."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_files import LLAMA, TOKENIZER, write_safetensors

from gkdplan.facts.config import read_shape
from gkdplan.families.tensors import expected_tensors


@pytest.fixture
def llama_config() -> dict[str, Any]:
    return dict(LLAMA)


@pytest.fixture
def tokenizer_file() -> dict[str, Any]:
    return json.loads(json.dumps(TOKENIZER))


@pytest.fixture
def model_directory(tmp_path: Path) -> Path:
    """A complete checkpoint of LLAMA."""
    directory = tmp_path / "tiny"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(LLAMA))
    (directory / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (directory / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    shape, _ = read_shape(LLAMA, "tiny/config.json")
    assert shape is not None
    write_safetensors(directory / "model.safetensors", expected_tensors(shape))
    return directory


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "say a", "completion": "a"}\n' * 3)
    return path
