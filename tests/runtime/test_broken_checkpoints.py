"""Each file of a real checkpoint, cut short, with another bit or missing: it is found and named."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from gloo_ranks import run_on_ranks
from silent_session import open_silently
from tiny_plans import compile_tiny

from gkdplan.runplan.codec import encode
from gkdplan.runplan.steps import saving_of
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.saved.manifest import NAME, flaw

LORA = 'tuning = "lora"\n[student.lora]\nrank = 4'
KINDS = {
    "manifest.json",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "state/rank_0.safetensors",
    "state/rank_1.safetensors",
    "state/responses.json",
    "state/state.json",
    "student/config.json",
    "student/model.safetensors",
    "student/tokenizer.json",
    "student/tokenizer_config.json",
}
HARMS: dict[str, Callable[[bytes], bytes | None]] = {
    "cut short": lambda content: content[:-2],
    "nothing": lambda content: b"",
    "longer": lambda content: content + b"\0",
    "first bit": lambda content: _with_another_bit(content, 0),
    "a bit": lambda content: _with_another_bit(content, 4 * len(content)),
    "last bit": lambda content: _with_another_bit(content, 8 * len(content) - 1),
    "missing": lambda content: None,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Of a student with adapters, on two ranks, with samples that were drawn ahead."""
    home = tmp_path_factory.mktemp("home")
    tiny.save_qwen2(home / "teacher", num_layers=2, seed=1)
    tiny.save_qwen2(home / "student", num_layers=2, seed=2)
    tiny.save_rows(home / "rows.jsonl")
    changes = {"devices": 2, "student": LORA, "held_out": "[]", "save_interval": 9, "steps": 9}
    run_plan = compile_tiny(home, home / "run", **changes)
    run_on_ranks(_save, 2, encode(run_plan))
    return home / "run" / "checkpoints" / "step_1"


def test_it_is_whole_and_has_every_kind_of_file(checkpoint):
    assert flaw(checkpoint) is None
    assert _files(checkpoint) >= KINDS


@pytest.mark.parametrize("harm", HARMS)
def test_a_harmed_file_is_found_and_named(harm, checkpoint):
    for name in sorted(_files(checkpoint)):
        file = checkpoint / name
        content = file.read_bytes()
        harmed = HARMS[harm](content)
        file.unlink()
        if harmed is not None:
            file.write_bytes(harmed)
        found = flaw(checkpoint)
        file.write_bytes(content)
        assert found is not None, name
        assert name in found or name == NAME, found
    assert flaw(checkpoint) is None


def test_bits_all_over_the_manifest_are_of_effect(checkpoint):
    manifest = checkpoint / NAME
    content = manifest.read_bytes()
    for position in range(0, len(content), 7):
        manifest.write_bytes(_with_another_bit(content, 8 * position + position % 8))
        assert flaw(checkpoint) is not None, content[:position]
    manifest.write_bytes(content)


def _with_another_bit(content: bytes, number: int) -> bytes:
    byte, bit = divmod(number, 8)
    return content[:byte] + bytes([content[byte] ^ 1 << bit]) + content[byte + 1 :]


def _files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def _save(lock: str) -> None:
    executor = Executor(open_silently(lock))
    executor._run_step(1)
    executor.saver.save(1, saving_of(executor.plan.steps), {"2": {"0": [1, 5, 7]}})
    executor.session.metrics.close()
