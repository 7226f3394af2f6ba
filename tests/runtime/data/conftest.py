"""Tokenizers to read rows with: SmolLM2's real one, and tiny ones built on the spot."""

import json
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import tiny

from gkdplan.runplan.model import DataSource
from gkdplan.runtime.data.chat import Chat, load_chat

ROOT = Path(__file__).parents[3]
SMOLLM2 = ROOT / ".cache" / "SmolLM2-135M-Instruct"


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real teacher's directory, converted first where it is missing."""
    subprocess.run([sys.executable, ROOT / "plans" / "prepare_smollm2.py"], check=True)
    return SMOLLM2


@pytest.fixture(scope="session")
def smollm2_chat(smollm2: Path) -> Chat:
    return load_chat(smollm2)


@pytest.fixture
def tiny_chat(tmp_path: Path) -> Callable[..., Chat]:
    """A byte-level tokenizer, with the keys of its configuration that are given changed."""

    def build(template: str | None = tiny.CHAT_TEMPLATE, **config: object) -> Chat:
        directory = tmp_path / "tokenizer"
        tiny.save_tokenizer(directory)
        template_file = directory / "chat_template.jinja"
        if template is None:
            template_file.unlink()
        else:
            template_file.write_text(template)
        config_file = directory / "tokenizer_config.json"
        config_file.write_text(json.dumps(json.loads(config_file.read_text()) | config))
        return load_chat(directory)

    return build


@pytest.fixture
def data_file(tmp_path: Path) -> Callable[..., DataSource]:
    """Write rows (dicts, or text as it is) to a file and describe it as a run plan does."""

    def write(*rows: object, name: str = "rows.jsonl", limit: int | None = None) -> DataSource:
        path = tmp_path / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        digest = sha256(path.read_bytes()).hexdigest()
        return DataSource(str(path), limit, len(rows), digest)

    return write
