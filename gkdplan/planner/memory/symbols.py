"""The numbers of a draft under their names, so that what is priced from them says its formula."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from gkdplan.experts import MoeShape
from gkdplan.facts.model import Device
from gkdplan.latent import LatentShape
from gkdplan.planner.draft import Draft
from gkdplan.planner.memory.quantity import named
from gkdplan.planner.memory.symbol_names import (
    AXIS_SYMBOLS,
    EXPERT_SYMBOLS,
    OTHER_SYMBOLS,
    SHAPE_SYMBOLS,
    Table,
    latent_symbols,
)
from gkdplan.runplan.formula import Symbol
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.model import Objective
from gkdplan.runplan.models import ModelPlan
from gkdplan.runplan.sampling import Sampling
from gkdplan.shape import ModelShape

Owner = TypeVar("Owner", AxisDegrees, MoeShape, LatentShape)


@dataclass(frozen=True, slots=True)
class NamedDraft(Draft):
    """A draft whose numbers are symbols; also its derived sequence length is one."""

    def sequence_tokens(self, degrees: AxisDegrees) -> int:
        tokens = Draft.sequence_tokens(self, degrees)
        return named("s" if degrees == self.layout.student else "s'", int(tokens))


def with_names(draft: Draft) -> Draft:
    """The same draft; numbers of the teacher that may differ have a prime."""
    layout, models, batch = draft.layout, draft.models, draft.batch
    student = _named_model(models.student, "")
    teacher = _named_model(models.teacher, "'")
    vocab_size = named("v", models.vocab_size)
    parts = {field.name: getattr(draft, field.name) for field in fields(Draft)}
    parts |= {
        "layout": replace(
            layout,
            student=_with_symbols(layout.student, AXIS_SYMBOLS, ""),
            teacher=_with_symbols(layout.teacher, AXIS_SYMBOLS, _prime_of_axes(draft)),
        ),
        "models": replace(models, student=student, teacher=teacher, vocab_size=vocab_size),
        "batch": replace(batch, micro_rows=named("b", batch.micro_rows)),
        "data": replace(draft.data, max_length=named("P", draft.data.max_length)),
        "sampling": _named_sampling(draft.sampling),
        "objective": _named_objective(draft.objective),
    }
    return NamedDraft(**parts)


def with_named_overhead(device: Device) -> Device:
    return replace(
        device,
        context_bytes=named("o", device.context_bytes),
        communicator_bytes=named("n", device.communicator_bytes),
    )


def symbols_of(draft: Draft, device: Device) -> dict[str, Symbol]:
    """Name -> symbol, of all numbers that `with_names` names."""
    return {symbol.name: symbol for symbol in _symbols(draft, device)}


def _symbols(draft: Draft, device: Device) -> Iterator[Symbol]:
    models, layout = draft.models, draft.layout
    sides = (
        (models.student, layout.student, "", ""),
        (models.teacher, layout.teacher, "'", " of the teacher"),
    )
    for model, degrees, prime, whose in sides:
        tables: list[tuple[object, Table]] = [
            (model.shape, SHAPE_SYMBOLS),
            (degrees, AXIS_SYMBOLS),
        ]
        if model.shape.moe is not None:
            tables.append((model.shape.moe, EXPERT_SYMBOLS))
        if model.shape.latent is not None:
            tables.append((model.shape.latent, latent_symbols(model.shape.latent)))
        for owner, table in tables:
            for field, (name, meaning) in table.items():
                yield Symbol(name + prime, getattr(owner, field), meaning + whose)
        yield Symbol(f"l{prime}", model.stage_layers[0][0], OTHER_SYMBOLS["l"] + whose)
        yield Symbol(f"s{prime}", draft.sequence_tokens(degrees), OTHER_SYMBOLS["s"] + whose)
    values = {
        "b": draft.batch.micro_rows,
        "P": draft.data.max_length,
        "R": draft.sampling.max_completion_length,
        "C": draft.objective.chunk_tokens,
        "V": models.student.padded_vocab_size,
        "v": models.vocab_size,
        **_engine_values(draft.sampling),
        "o": device.context_bytes,
        "n": device.communicator_bytes,
    }
    if draft.objective.top_k is not None:
        values["N"] = draft.objective.top_k
    if models.student.lora is not None:
        values["r"] = models.student.lora.rank
    for name, value in values.items():
        yield Symbol(name, value, OTHER_SYMBOLS[name])


def _engine_values(sampling: Sampling) -> dict[str, int]:
    engine = sampling.vllm
    if engine is None:
        return {"B": sampling.refit_bucket_bytes}
    return {
        "T": engine.tensor,
        "K": engine.kv_cache_bytes,
        "B": sampling.refit_bucket_bytes,
        "G": engine.graph_bytes,
    }


def _named_objective(objective: Objective) -> Objective:
    top_k = objective.top_k
    return replace(
        objective,
        chunk_tokens=named("C", objective.chunk_tokens),
        top_k=None if top_k is None else named("N", top_k),
    )


def _named_sampling(sampling: Sampling) -> Sampling:
    engine = sampling.vllm
    if engine is not None:
        engine = replace(
            engine,
            tensor=named("T", engine.tensor),
            kv_cache_bytes=named("K", engine.kv_cache_bytes),
            graph_bytes=named("G", engine.graph_bytes),
        )
    return replace(
        sampling,
        max_completion_length=named("R", sampling.max_completion_length),
        refit_bucket_bytes=named("B", sampling.refit_bucket_bytes),
        vllm=engine,
    )


def _prime_of_axes(draft: Draft) -> str:
    return "" if draft.layout.student == draft.layout.teacher else "'"


def _class_of_its_own() -> type[ModelShape]:
    """Of one shape of named numbers, which so is unequal to every other of the same sizes: prices
    are cached by shape, and those of another have other names or none."""
    return type("NamedShape", (ModelShape,), {"__slots__": ()})


def _named_model(model: ModelPlan, prime: str) -> ModelPlan:
    shape = model.shape
    values = {field.name: getattr(shape, field.name) for field in fields(shape)}
    for field, (name, _) in SHAPE_SYMBOLS.items():
        values[field] = named(name + prime, values[field])
    if shape.moe is not None:
        values["moe"] = _with_symbols(shape.moe, EXPERT_SYMBOLS, prime)
    if shape.latent is not None:
        values["latent"] = _with_symbols(shape.latent, latent_symbols(shape.latent), prime)
    return replace(
        model,
        shape=_class_of_its_own()(**values),
        padded_vocab_size=named("V", model.padded_vocab_size),
        lora=model.lora and replace(model.lora, rank=named("r", model.lora.rank)),
        stage_layers=_named_layers(model.stage_layers, f"l{prime}"),
    )


def _named_layers(
    stage_layers: tuple[tuple[int, ...], ...], name: str
) -> tuple[tuple[int, ...], ...]:
    """Where every chunk has as many; uneven ones stay numbers."""
    counts = {num for chunks in stage_layers for num in chunks}
    if len(counts) > 1:
        return stage_layers
    return tuple(tuple(named(name, num) for num in chunks) for chunks in stage_layers)


def _with_symbols(owner: Owner, table: Table, prime: str) -> Owner:
    values: dict[str, Any] = {
        field: named(name + prime, getattr(owner, field)) for field, (name, _) in table.items()
    }
    return replace(owner, **values)
