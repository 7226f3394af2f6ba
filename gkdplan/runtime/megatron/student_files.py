"""A student as a Hugging Face directory: safetensors in shards, config, tokenizer."""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from gkdplan.families.packed import packs_experts, tensors_in_files
from gkdplan.runplan.models import ModelPlan
from gkdplan.runtime.megatron.checkpoint_files import Checkpoint
from gkdplan.runtime.megatron.packed_experts import packed
from gkdplan.runtime.student_config import write_config
from gkdplan.vision import name_on_disk

FILE_BYTES = 5 * 10**9
"""Of one safetensors file at most."""


def write_student(
    tensors: Iterable[tuple[str, Tensor]],
    plan: ModelPlan,
    source_dir: Path,
    out_dir: Path,
    shard_bytes: int = FILE_BYTES,
) -> None:
    """Consume `tensors`, in any order, and write `out_dir`, which must not exist yet."""
    partial = out_dir.with_name(f".{out_dir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    transposed = packs_experts(plan.shape) and _holds_transposed_experts(source_dir, plan)
    _write_shards(tensors, plan, partial, shard_bytes, transposed=transposed)
    write_config(plan, source_dir, partial)
    partial.rename(out_dir)


def _write_shards(
    tensors: Iterable[tuple[str, Tensor]],
    plan: ModelPlan,
    directory: Path,
    shard_bytes: int,
    *,
    transposed: bool,
) -> None:
    """One file, or several and the index that tells which tensor lies where.

    A shard is written when it is full, so that at most one is held on the host; the number of
    files, which is part of their names, is put in afterwards.
    """
    weight_map: dict[str, str] = {}
    total_bytes = 0
    shards = list[Path]()
    vision = plan.shape.vision
    in_files = packed(tensors, plan.shape, transposed=transposed)
    named = ((name_on_disk(vision, name), tensor) for name, tensor in in_files)
    for shard in _shards(named, shard_bytes):
        path = directory / f"shard_{len(shards)}"
        save_file(shard, path, metadata={"format": "pt"})
        shards.append(path)
        weight_map |= dict.fromkeys(shard, path.name)
        total_bytes += sum(tensor.nbytes for tensor in shard.values())
    expected = tensors_in_files(plan.shape)
    assert weight_map.keys() == {name_on_disk(vision, name) for name in expected}
    if len(shards) == 1:
        shards[0].rename(directory / "model.safetensors")
        return
    names = {
        path.name: f"model-{index:05d}-of-{len(shards):05d}.safetensors"
        for index, path in enumerate(shards, start=1)
    }
    for path in shards:
        path.rename(directory / names[path.name])
    _write_json(
        directory / "model.safetensors.index.json",
        {
            "metadata": {"total_size": total_bytes},
            "weight_map": {tensor: names[shard] for tensor, shard in weight_map.items()},
        },
    )


def _holds_transposed_experts(source_dir: Path, plan: ModelPlan) -> bool:
    with Checkpoint(source_dir, plan.shape) as source:
        return source.holds_transposed_experts


def _shards(tensors: Iterable[tuple[str, Tensor]], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Host copies of the tensors in groups of at most `shard_bytes`, or of one larger tensor."""
    shard: dict[str, Tensor] = {}
    num_bytes = 0
    for name, tensor in tensors:
        if shard and num_bytes + tensor.nbytes > shard_bytes:
            yield shard
            shard, num_bytes = {}, 0
        shard[name] = tensor.cpu().contiguous()
        num_bytes += tensor.nbytes
    yield shard


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
