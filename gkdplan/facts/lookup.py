"""Everything that the planner may know of the world, looked up once, with all findings."""

import os
from dataclasses import replace

from gkdplan.diagnostics import Diagnostic, Severity, error, note
from gkdplan.facts.checkpoint import read_weights
from gkdplan.facts.config import MAX_CONFIG_BYTES, read_shape
from gkdplan.facts.devices import find_device
from gkdplan.facts.known import find_known
from gkdplan.facts.locate import find_snapshot, nearest_model
from gkdplan.facts.model import (
    DataFile,
    Facts,
    ModelFacts,
    ModelRef,
    SamplesFile,
    TeacherColumn,
    TokenizerFacts,
)
from gkdplan.facts.preparing import unfit_preparing
from gkdplan.facts.rows import read_data_file
from gkdplan.facts.samples import read_samples_file
from gkdplan.facts.token_map import TokenMap
from gkdplan.facts.tokenizer import read_tokenizer
from gkdplan.facts.weights import fingerprint
from gkdplan.json_file import UnreadableError, read_object
from gkdplan.pictures import USUAL_LIMITS, PictureLimits
from gkdplan.shape import ModelShape
from gkdplan.text import printable, shown

BUNDLED = "bundled facts"

Findings = tuple[Diagnostic, ...]


def look_up(
    student: ModelRef,
    teacher: ModelRef,
    device: str,
    train: tuple[str, ...],
    eval: tuple[str, ...],
    samples: str | None = None,
    column: TeacherColumn | None = None,
    limits: PictureLimits = USUAL_LIMITS,
    max_bad_rows: int = 0,
) -> tuple[Facts | None, Findings]:
    """Facts of the two models, the device, the data files and the file of the teacher's samples;
    None where there is an error.

    A model is a directory (relative to the working directory), else a hub id in Hugging Face's
    local cache, else a hub id with bundled facts. Nothing is downloaded; of tensors no more is read
    than `weights.fingerprint` does, where there are samples. Where there are several teachers,
    every row names its own in `column`. What a row shows is within `limits`; of each
    file `max_bad_rows` may be left out. Every finding is
    returned at once, at "student.model", "teacher.revision", "cluster.device", "data.train[0]",
    "teacher.samples"; a model that both roles name is read once, and only its errors are repeated.
    """
    token_maps: dict[str, TokenMap] = {}
    student_facts, found = _read_model(student, token_maps)
    findings = _placed(found, student.role)
    if (teacher.model, teacher.revision) == (student.model, student.revision):
        teacher_facts = student_facts
        found = tuple(finding for finding in found if _is_error(finding))
    else:
        teacher_facts, found = _read_model(teacher, token_maps)
    findings += _placed(found, teacher.role)
    device_facts, found = find_device(device)
    findings += found
    train_files, found = _read_data(train, "data.train", column, limits, max_bad_rows)
    findings += found
    eval_files, found = _read_data(eval, "data.eval", column, limits, max_bad_rows)
    findings += found
    samples_file, found = _read_samples(samples, teacher)
    findings += found
    if student_facts is None or teacher_facts is None or device_facts is None:
        return None, tuple(findings)
    if any(map(_is_error, findings)):
        return None, tuple(findings)
    facts = Facts(student_facts, teacher_facts, device_facts, train_files, eval_files, samples_file)
    return facts, tuple(findings)


def _is_error(finding: Diagnostic) -> bool:
    return finding.severity is Severity.ERROR


def _placed(findings: Findings, table: str) -> list[Diagnostic]:
    return [replace(finding, path=f"{table}.{finding.path}") for finding in findings]


def _read_data(
    entries: tuple[str, ...],
    key: str,
    column: TeacherColumn | None,
    limits: PictureLimits,
    max_bad_rows: int,
) -> tuple[tuple[DataFile, ...], Findings]:
    files: list[DataFile] = []
    findings: list[Diagnostic] = []
    for index, entry in enumerate(entries):
        file, found = read_data_file(entry, column, limits, max_bad_rows)
        files += [file] if file else []
        findings += [replace(finding, path=f"{key}[{index}]") for finding in found]
    return tuple(files), tuple(findings)


def _read_samples(samples: str | None, teacher: ModelRef) -> tuple[SamplesFile | None, Findings]:
    if samples is None:
        return None, ()
    return read_samples_file(samples, fingerprint(teacher.model, teacher.revision))


def _read_model(
    ref: ModelRef, token_maps: dict[str, TokenMap]
) -> tuple[ModelFacts | None, Findings]:
    """One model's facts; its findings' paths are "model" and "revision"."""
    if os.path.isdir(ref.model):
        name = os.path.basename(os.path.abspath(ref.model))
        facts, findings = _read_directory(ref.model, ref.model, name, token_maps)
        if ref.revision is None:
            return facts, findings
        return None, (*findings, _revision_of_directory(ref))
    snapshot = find_snapshot(ref.model, ref.revision)
    if snapshot is not None:
        return _read_directory(snapshot, ref.model, ref.model.split("/")[-1], token_maps)
    known = find_known(ref.model)
    if known is None:
        return None, (_missing(ref),)
    shape, findings = read_shape(known.config, BUNDLED)
    if shape is None:
        return None, findings
    return ModelFacts(ref.model, shape, BUNDLED, None, None), (_bundled(ref),)


def _read_directory(
    directory: str, model: str, name: str, token_maps: dict[str, TokenMap]
) -> tuple[ModelFacts | None, Findings]:
    """`model` is how the plan names it, `name` how messages do."""
    origin = f"{name}/config.json"
    try:
        config = read_object(os.path.join(directory, "config.json"), MAX_CONFIG_BYTES)
    except UnreadableError as failure:
        return None, (error("GK103", f"{origin} {failure}", "model"),)
    shape, findings = read_shape(config, origin)
    tokenizer, found = read_tokenizer(directory, name, config, token_maps)
    findings += found
    if shape is None:
        return None, findings
    if tokenizer is not None and tokenizer.size > shape.vocab_size:
        findings += (_beyond_embedding(tokenizer, shape, name),)
    findings += unfit_preparing(directory, shape.vision, name)
    weights, found = read_weights(directory, shape, name)
    findings += found
    return ModelFacts(model, shape, origin, weights, tokenizer), findings


def _beyond_embedding(tokenizer: TokenizerFacts, shape: ModelShape, name: str) -> Diagnostic:
    last = max(tokenizer.tokens, key=tokenizer.tokens.__getitem__)
    return error(
        "GK114",
        f"the tokenizer of {name} has the token {shown(last)} with id {tokenizer.size - 1:,}, and "
        f"its embedding has {shape.vocab_size:,} rows",
        "model",
        label="this token has no row",
        notes=(f"`vocab_size` = {shape.vocab_size:,}, from {name}/config.json",),
    )


def _missing(ref: ModelRef) -> Diagnostic:
    nearest = nearest_model(ref.model)
    guess = (f'did you mean "{printable(nearest)}"?',) if nearest else ()
    fetch = (f"`hf download {ref.model}` puts it into the cache",) if _may_be_hub_id(ref) else ()
    return error(
        "GK101",
        f"`{printable(ref.model)}` is neither a directory, nor a model of the local hub cache, nor "
        "one with bundled facts",
        "model",
        label="nothing of this name was found",
        help=guess + fetch,
    )


def _may_be_hub_id(ref: ModelRef) -> bool:
    organisation, _, name = ref.model.partition("/")
    words = (organisation + name).replace("-", "").replace("_", "").replace(".", "")
    return bool(name) and words.isalnum() and not os.path.isdir(organisation)


def _bundled(ref: ModelRef) -> Diagnostic:
    unseen = "its weights and tokenizer were not seen"
    if ref.revision is not None:
        unseen += f", nor was revision {shown(ref.revision)}"
    return note("GK111", f"{ref.model} is known from {BUNDLED} only: {unseen}", "model")


def _revision_of_directory(ref: ModelRef) -> Diagnostic:
    return error(
        "GK115",
        f"`{printable(ref.model)}` is a directory, and only models of the hub have revisions",
        "revision",
        help=("remove the key",),
    )
