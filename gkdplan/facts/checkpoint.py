"""The weights beside a config.json, held against the shape that it describes."""

import os
from collections.abc import Iterable

from gkdplan.diagnostics import Diagnostic, error, note
from gkdplan.facts.model import WeightFacts
from gkdplan.facts.safetensors import Tensor, read_header
from gkdplan.facts.tensors import compare_tensors
from gkdplan.families.packed import tensors_in_files
from gkdplan.json_file import UnreadableError, read_object, reason
from gkdplan.shape import ModelShape
from gkdplan.text import listed, printable, shown
from gkdplan.vision import canonical_name

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_INDEX_BYTES = 64 * 2**20

Header = dict[str, Tensor]


def read_weights(
    directory: str, shape: ModelShape, name: str
) -> tuple[WeightFacts | None, tuple[Diagnostic, ...]]:
    """What the headers of the directory's safetensors say; None where there are none, or errors.

    `name` is the directory's in messages. GK106: a file is unreadable or damaged; GK107: the
    tensors are not those of the shape; GK108: index and shards disagree; GK109: only pickles;
    GK110, a note: there are no weights.
    """
    try:
        files = set(os.listdir(directory))
    except OSError as failure:
        return None, (error("GK106", f"{name} cannot be listed: {reason(failure)}", "model"),)
    if SINGLE_FILE in files:
        headers, findings = _read_headers(directory, [SINGLE_FILE], name)
    elif INDEX_FILE in files:
        headers, findings = _read_sharded(directory, name)
    else:
        return None, (_without_weights(files, name),)
    tensors = {tensor: row for header in headers.values() for tensor, row in header.items()}
    findings = findings or compare_tensors(tensors, shape, name)
    if findings:
        return None, tuple(findings)
    of_model = {canonical_name(shape.vision, tensor): row for tensor, row in tensors.items()}
    own = [of_model[tensor] for tensor in tensors_in_files(shape)]
    weights = WeightFacts(
        num_files=len(headers),
        num_parameters=sum(tensor.num_elements for tensor in own),
        num_bytes=sum(tensor.end - tensor.begin for tensor in own),
    )
    return weights, ()


def weight_files(directory: str) -> list[str]:
    """The paths of a checkpoint's safetensors: the single file, or the shards of its index; none
    where neither is there."""
    single = os.path.join(directory, SINGLE_FILE)
    if os.path.lexists(single):
        return [single]
    try:
        shard_of = _read_index(os.path.join(directory, INDEX_FILE))
    except UnreadableError:
        return []
    return [os.path.join(directory, file) for file in sorted(set(shard_of.values()))]


def _read_headers(
    directory: str, files: Iterable[str], name: str
) -> tuple[dict[str, Header], list[Diagnostic]]:
    headers, findings = {}, []
    for file in files:
        try:
            headers[file] = read_header(os.path.join(directory, file))
        except UnreadableError as failure:
            findings.append(_unreadable(name, file, failure))
    return headers, findings


def _read_sharded(directory: str, name: str) -> tuple[dict[str, Header], list[Diagnostic]]:
    try:
        shard_of = _read_index(os.path.join(directory, INDEX_FILE))
    except UnreadableError as failure:
        return {}, [_unreadable(name, INDEX_FILE, failure)]
    shards = sorted(set(shard_of.values()))
    missing = [file for file in shards if not os.path.lexists(os.path.join(directory, file))]
    headers, findings = _read_headers(directory, sorted(set(shards) - set(missing)), name)
    if missing:
        findings.append(
            error(
                "GK108",
                f"{name} lacks {len(missing)} of the {len(shards)} shards that its "
                f"{INDEX_FILE} names: {listed(missing)}",
                "model",
                help=("finish the download of the checkpoint",),
            )
        )
    elsewhere = [
        tensor
        for tensor, file in shard_of.items()
        if file in headers and tensor not in headers[file]
    ]
    if elsewhere:
        findings.append(
            error(
                "GK108",
                f"{name}/{INDEX_FILE} names tensors that their shards do not hold: "
                f"{listed(elsewhere)}",
                "model",
                help=("download the index and the shards again, from one revision",),
            )
        )
    return headers, findings


def _read_index(path: str) -> dict[str, str]:
    weight_map = read_object(path, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UnreadableError("has no `weight_map`")
    shard_of = {}
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or os.path.basename(file) != file or not file:
            raise UnreadableError(
                f"maps tensor `{printable(tensor)}` to {shown(file)}, not to a file"
            )
        shard_of[tensor] = file
    return shard_of


def _without_weights(files: set[str], name: str) -> Diagnostic:
    shards = sorted(f for f in files if f.startswith("model") and f.endswith(".safetensors"))
    if shards:
        return error(
            "GK108",
            f"{name} holds {listed(shards)} without {INDEX_FILE}",
            "model",
            help=("finish the download of the checkpoint",),
        )
    pickles = sorted(f for f in files if f.startswith("pytorch_model") and f.endswith(".bin"))
    if pickles:
        return error(
            "GK109",
            f"{name} holds its weights only as pickles ({listed(pickles)}), and only safetensors "
            "are read",
            "model",
            help=(
                "save it once with transformers: "
                "`AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)`",
            ),
        )
    return note("GK110", f"{name} holds no weights: only its config.json was checked", "model")


def _unreadable(name: str, file: str, failure: UnreadableError) -> Diagnostic:
    return error("GK106", f"{name}/{file} {failure}", "model")
