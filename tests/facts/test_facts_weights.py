"""A fingerprint of weights: what it sees, whatever shards they lie in."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from gkdplan.facts.weights import FIRST_BYTES, fingerprint

TENSORS = {
    "a": np.arange(4096, dtype=np.float32).reshape(64, 64),
    "b": np.ones(8, dtype=np.float32),
}


def written(directory: Path, tensors: dict = TENSORS) -> str | None:
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors")
    return fingerprint(str(directory), None)


def test_equal_weights_have_one_and_shards_do_not_matter(tmp_path):
    whole = written(tmp_path / "whole")
    shards = tmp_path / "shards"
    shards.mkdir()
    for name, file in (("b", "x.safetensors"), ("a", "y.safetensors")):
        save_file({name: TENSORS[name]}, shards / file)
    weight_map = {"b": "x.safetensors", "a": "y.safetensors"}
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert whole is not None
    assert whole == written(tmp_path / "again") == fingerprint(str(shards), None)


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_that_moved_is_seen(tmp_path, name):
    moved = TENSORS | {name: TENSORS[name] + 1e-3}
    assert written(tmp_path / "before") != written(tmp_path / "after", moved)


def test_another_name_dtype_or_shape_is_seen(tmp_path):
    others = [
        {"a": TENSORS["a"], "c": TENSORS["b"]},
        TENSORS | {"b": TENSORS["b"].astype(np.float64)},
        TENSORS | {"a": TENSORS["a"].reshape(32, 128)},
    ]
    found = {written(tmp_path / str(number), other) for number, other in enumerate(others)}
    assert len(found | {written(tmp_path / "own")}) == 4


def test_only_the_first_bytes_are_read(tmp_path):
    """What the docstring says is not seen."""
    deep = TENSORS["a"].copy()
    deep[-1, -1] = -1
    assert deep.nbytes > FIRST_BYTES
    assert written(tmp_path / "own") == written(tmp_path / "deep", TENSORS | {"a": deep})


def test_where_no_whole_weights_are_there_is_none(tmp_path):
    assert fingerprint("no/such-model", None) is None
    assert fingerprint(str(tmp_path), None) is None
    written(tmp_path / "cut")
    file = tmp_path / "cut" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert fingerprint(str(tmp_path / "cut"), None) is None


def test_hundreds_of_tensors_take_no_time(tmp_path):
    many = {f"layer.{n}": np.full((512, 64), n, dtype=np.float32) for n in range(300)}
    written(tmp_path / "many", many)
    started_s = time.process_time()
    fingerprint(str(tmp_path / "many"), None)
    assert time.process_time() - started_s < 0.5
