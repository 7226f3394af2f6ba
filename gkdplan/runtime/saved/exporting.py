"""A checkpoint's student as a directory of its own, in Hugging Face's format."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from gkdplan.diagnostics import Diagnostic, Severity, UserError, error
from gkdplan.runplan.codec import decode
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.saved.manifest import bytes_in, flaw
from gkdplan.runtime.saved.run_directory import RunDirectory

CODE = "GK588"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
INDEX = "model.safetensors.index.json"

Card = Callable[[RunPlan, str], str]
"""A run plan and the name of a checkpoint -> the README.md of a model."""
Tell = Callable[[int, int], None]
"""Bytes that were read, and of how many."""


@dataclass(frozen=True, slots=True)
class Exported:
    """The checkpoint that was taken, and a warning for each newer one that is not whole."""

    checkpoint: Path
    diagnostics: tuple[Diagnostic, ...]


@dataclass(slots=True)
class _Meter:
    tell: Tell
    done: int = 0
    total: int = 0

    def expect(self, directory: Path) -> None:
        self.total += bytes_in(directory)
        self.tell(self.done, self.total)

    def add(self, num_bytes: int) -> None:
        self.done += num_bytes
        self.tell(self.done, self.total)


def export(
    source: Path, output: Path, part: str, dtype: str | None, card: Card, tell: Tell
) -> Exported:
    """Copy `part` ("student" or "adapter") of a run's newest whole checkpoint, or of the checkpoint
    named, to `output`, with weights in `dtype` where one is given.

    Raises UserError (GK588) where there is no whole checkpoint or it has no such part, and what
    `codec.decode` raises for the run's lock.
    """
    meter = _Meter(tell)
    checkpoint, passed_over = _newest_whole(source, meter)
    files = checkpoint / part
    if not files.is_dir():
        raise _nothing(f"`{checkpoint}` has no {part}", "only a run with LoRA saves adapters")
    lock = RunDirectory(checkpoint.parent.parent).lock
    run_plan = decode(lock.read_text(encoding="utf-8"), str(lock))
    readme = card(run_plan, checkpoint.name)
    meter.expect(files)
    _put_whole(output, lambda partial: _fill(partial, files, dtype, readme, meter))
    return Exported(checkpoint, tuple(_passed_over(checkpoint, passed_over)))


def _newest_whole(source: Path, meter: _Meter) -> tuple[Path, dict[Path, str]]:
    """The checkpoint, and why newer ones are not whole."""
    if (source / "checkpoints").is_dir():
        directory = RunDirectory(source)
        candidates = [directory.checkpoint(step) for step in reversed(directory.saved_steps())]
    else:
        candidates = [source]
    flaws: dict[Path, str] = {}
    for checkpoint in candidates:
        meter.expect(checkpoint)
        why = flaw(checkpoint, meter.add)
        if why is None:
            return checkpoint, flaws
        flaws[checkpoint] = why
    raise _nothing(
        f"`{source}` has no whole checkpoint",
        "name a run directory, or one of its checkpoints/step_N",
        *(f"{path.name}: {why}" for path, why in flaws.items()),
    )


def _passed_over(taken: Path, flaws: dict[Path, str]) -> Iterator[Diagnostic]:
    for path, why in flaws.items():
        message = f"`{path}` is not whole: {why}"
        yield Diagnostic(CODE, Severity.WARNING, message, notes=(f"{taken.name} was taken",))


def _put_whole(output: Path, fill: Callable[[Path], None]) -> None:
    """Fill a hidden directory and rename it, so that no half of a model ever has the name."""
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        fill(partial)
        partial.rename(output)
    except OSError as failure:
        shutil.rmtree(partial, ignore_errors=True)
        reason = (failure.strerror or str(failure)).lower()
        raise _nothing(
            f"`{output}` cannot be written: {reason}", "name another directory"
        ) from None


def _fill(partial: Path, files: Path, dtype: str | None, readme: str, meter: _Meter) -> None:
    for path in sorted(files.iterdir()):
        if dtype and path.suffix == ".safetensors":
            _cast(path, partial / path.name, DTYPES[dtype])
        else:
            shutil.copyfile(path, partial / path.name)
        meter.add(path.stat().st_size)
    if dtype:
        _say_dtype(partial, dtype)
    (partial / "README.md").write_text(readme, encoding="utf-8")


def _cast(source: Path, target: Path, dtype: torch.dtype) -> None:
    tensors = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in load_file(source).items()
    }
    save_file(tensors, target, metadata={"format": "pt"})


def _say_dtype(directory: Path, dtype: str) -> None:
    """The config's dtype, and the index's sum of bytes."""
    names = {"fp32": "float32", "bf16": "bfloat16"}
    if (directory / "config.json").is_file():
        _edit(directory / "config.json", lambda config: config | {"dtype": names[dtype]})
    if (directory / INDEX).is_file():
        num_bytes = sum(
            tensor.nbytes
            for file in directory.glob("*.safetensors")
            for tensor in load_file(file).values()
        )
        _edit(directory / INDEX, lambda index: index | {"metadata": {"total_size": num_bytes}})


def _edit(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    changed = change(json.loads(file.read_text(encoding="utf-8")))
    file.write_text(json.dumps(changed, indent=2) + "\n", encoding="utf-8")


def _nothing(message: str, help: str, *notes: str) -> UserError:
    return UserError(error(CODE, message, notes=notes, help=(help,)))
