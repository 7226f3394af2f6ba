"""Of the student: what it begins as, its tuning, stages, recomputation and learning rate."""

from collections.abc import Iterator
from itertools import pairwise

from gkdplan.diagnostics import Diagnostic
from gkdplan.spec.contradictions.finding import contradiction
from gkdplan.spec.learning import Optimizer
from gkdplan.spec.source import Source
from gkdplan.spec.toml_words import format_value


def kept_layers_need_init_layers(source: Source) -> Iterator[Diagnostic]:
    init = source.value("student.init")
    if init == "layers" and not source.has("student.keep"):
        yield contradiction(
            "student.init",
            '`student.init = "layers"` does not say which layers',
            "add `[student.keep]` with `layers = [0, 3, ...]`: indices of the model's layers",
        )
    if source.has("student.keep") and init != "layers":
        yield contradiction(
            "student.keep",
            '`student.keep` is read only with `student.init = "layers"`',
            'set `student.init = "layers"`, or remove `[student.keep]`',
        )


def kept_layers_rise(source: Source) -> Iterator[Diagnostic]:
    layers = source.value("student.keep.layers")
    if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
        return
    for index, (before, layer) in enumerate(pairwise(layers), 1):
        if layer <= before:
            yield contradiction(
                f"student.keep.layers[{index}]",
                "`student.keep.layers` must rise: layers keep their order and come once",
                f"write `layers = {sorted(set(layers))}`",
                f"{layer} comes after {before}",
            )
            return


def lora_needs_its_tuning(source: Source) -> Iterator[Diagnostic]:
    if source.has("student.lora") and source.value("student.tuning") != "lora":
        yield contradiction(
            "student.lora",
            '`student.lora` is read only with `student.tuning = "lora"`',
            'set `student.tuning = "lora"`, or remove `[student.lora]`',
        )


def stages_are_given_one_way(source: Source) -> Iterator[Diagnostic]:
    for table in ("student.parallel", "teacher.parallel"):
        for key in ("first_stage_layers", "last_stage_layers"):
            if source.has(f"{table}.stage_layers") and source.has(f"{table}.{key}"):
                yield contradiction(
                    f"{table}.{key}",
                    f"`{table}.{key}` and `{table}.stage_layers` both give a stage its layers",
                    f"remove `{key}`: `stage_layers` names every stage",
                    f"`stage_layers` is written on line "
                    f"{source.locate(f'{table}.stage_layers').line}",
                )


def recompute_keys_need_their_granularity(source: Source) -> Iterator[Diagnostic]:
    granularity = source.value("student.recompute.granularity") or "none"
    readers = {"method": "full", "num_layers": "full", "modules": "selective"}
    for key, reader in readers.items():
        path = f"student.recompute.{key}"
        if source.has(path) and granularity != reader:
            yield contradiction(
                path,
                f'`{path}` is read only with `granularity = "{reader}"`',
                f'set `student.recompute.granularity = "{reader}"`, or remove `{key}`',
                f"the granularity is {granularity}",
            )


def the_learning_rate_falls(source: Source) -> Iterator[Diagnostic]:
    lr, min_lr = source.value("optimizer.lr"), source.value("optimizer.min_lr")
    lr = Optimizer.model_fields["lr"].default if lr is None else lr
    if min_lr is not None and source.value("optimizer.schedule") == "constant":
        yield contradiction(
            "optimizer.min_lr",
            '`optimizer.min_lr` is not read with `optimizer.schedule = "constant"`',
            'remove `min_lr`, or set `optimizer.schedule` to "linear" or "cosine"',
        )
    elif type(lr) in (int, float) and type(min_lr) in (int, float) and min_lr > lr:
        yield contradiction(
            "optimizer.min_lr",
            "`optimizer.min_lr` is larger than `optimizer.lr`",
            f"set `optimizer.min_lr` to at most {format_value(lr)}",
            f"the learning rate falls from {format_value(lr)}",
        )


CHECKS = (
    kept_layers_need_init_layers,
    kept_layers_rise,
    lora_needs_its_tuning,
    stages_are_given_one_way,
    recompute_keys_need_their_granularity,
    the_learning_rate_falls,
)
