"""GK006: keys that ask for different things, and GK004 where one of two is missing, found in the
text's values.

These checks read the raw values, so that a plan with another fault still shows them. Each is a
generator of findings, named as its rule; what has the wrong type is left to the schema.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

from gkdplan.diagnostics import Diagnostic, error
from gkdplan.spec.plan import Cluster, Generation, Optimizer, Server
from gkdplan.spec.source import Source
from gkdplan.spec.toml_words import format_value
from gkdplan.vocab import Kernels, LossBackend


def contradictions(source: Source) -> Iterator[Diagnostic]:
    """Every contradiction of a plan, each at its place."""
    for check in CHECKS:
        for finding in check(source):
            yield finding.at(source.locate(finding.path or ""))


def _contradiction(path: str, message: str, help: str, label: str = "") -> Diagnostic:
    return error("GK006", message, path, label=label, help=(help,))


def a_cpu_has_torch_kernels(source: Source) -> Iterator[Diagnostic]:
    device = source.value("cluster.device") or Cluster.model_fields["device"].default
    if device == "cpu" and source.value("cluster.kernels") == Kernels.TRANSFORMER_ENGINE:
        yield _contradiction(
            "cluster.kernels",
            '`cluster.kernels = "transformer_engine"` has no kernels for a cpu',
            "name a GPU as `cluster.device`, or remove `kernels`",
            "the device is cpu",
        )


def a_cpu_has_no_triton(source: Source) -> Iterator[Diagnostic]:
    device = source.value("cluster.device") or Cluster.model_fields["device"].default
    if device == "cpu" and source.value("distill.loss_backend") == LossBackend.TRITON:
        yield _contradiction(
            "distill.loss_backend",
            '`distill.loss_backend = "triton"` has no compiler for a cpu',
            'name a GPU as `cluster.device`, or set `loss_backend` to "eager" or "compiled"',
            "the device is cpu",
        )


def epochs_or_steps(source: Source) -> Iterator[Diagnostic]:
    if source.has("run.epochs") and source.has("run.steps"):
        yield _contradiction(
            "run.epochs",
            "`run.epochs` and `run.steps` both say how long the run is",
            "keep one of them",
            f"`steps` is written on line {source.locate('run.steps').line}",
        )


def kept_layers_need_init_layers(source: Source) -> Iterator[Diagnostic]:
    init = source.value("student.init")
    if init == "layers" and not source.has("student.keep"):
        yield _contradiction(
            "student.init",
            '`student.init = "layers"` does not say which layers',
            "add `[student.keep]` with `layers = [0, 3, ...]`: indices of the model's layers",
        )
    if source.has("student.keep") and init != "layers":
        yield _contradiction(
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
            yield _contradiction(
                f"student.keep.layers[{index}]",
                "`student.keep.layers` must rise: layers keep their order and come once",
                f"write `layers = {sorted(set(layers))}`",
                f"{layer} comes after {before}",
            )
            return


def lora_needs_its_tuning(source: Source) -> Iterator[Diagnostic]:
    if source.has("student.lora") and source.value("student.tuning") != "lora":
        yield _contradiction(
            "student.lora",
            '`student.lora` is read only with `student.tuning = "lora"`',
            'set `student.tuning = "lora"`, or remove `[student.lora]`',
        )


def stages_are_given_one_way(source: Source) -> Iterator[Diagnostic]:
    for table in ("student.parallel", "teacher.parallel"):
        for key in ("first_stage_layers", "last_stage_layers"):
            if source.has(f"{table}.stage_layers") and source.has(f"{table}.{key}"):
                yield _contradiction(
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
            yield _contradiction(
                path,
                f'`{path}` is read only with `granularity = "{reader}"`',
                f'set `student.recompute.granularity = "{reader}"`, or remove `{key}`',
                f"the granularity is {granularity}",
            )


def a_teacher_is_one_model(source: Source) -> Iterator[Diagnostic]:
    if source.has("teacher") and not source.has("teacher.self"):
        if not source.has("teacher.model"):
            yield error(
                "GK004",
                "`teacher.model` is missing",
                "teacher.model",
                label="no `model` in this table",
                help=("add `model = ...` to `[teacher]`, or `self = ...` for the student itself",),
            )
        if source.has("teacher.decay"):
            yield _contradiction(
                "teacher.decay",
                '`teacher.decay` is read only with `teacher.self = "ema"`',
                'write `self = "ema"` in place of `teacher.model`, or remove `decay`',
            )
        return
    for key in ("model", "revision", "dtype", "server", "samples"):
        if source.has(f"teacher.{key}"):
            yield _contradiction(
                f"teacher.{key}",
                f"`teacher.{key}` is of another model than the student, which `teacher.self` takes",
                f"remove `teacher.{key}` or `teacher.self`",
                f"`self` is written on line {source.locate('teacher.self').line}",
            )


def an_average_follows_the_student(source: Source) -> Iterator[Diagnostic]:
    if source.value("teacher.self") == "initial" and source.has("teacher.decay"):
        yield _contradiction(
            "teacher.decay",
            "`teacher.decay` changes a teacher that stays what it is",
            'set `teacher.self = "ema"`, or remove `decay`',
        )
    if source.value("teacher.self") != "ema":
        return
    reasons = {"parallel": "moves weights away from the student's, whose average they are"}
    if source.value("teacher.stream") is True:
        reasons["stream"] = "is of models larger than the device, which holds the student anyway"
    for key, reason in reasons.items():
        if source.has(f"teacher.{key}"):
            yield _contradiction(
                f"teacher.{key}",
                f"`teacher.{key}` {reason}",
                f"remove `teacher.{key}`",
                'the teacher is the student\'s average: `self = "ema"`',
            )


def a_server_teacher_holds_no_weights_here(source: Source) -> Iterator[Diagnostic]:
    if not source.has("teacher.server"):
        return
    for key in ("parallel", "offload", "prefetch", "stream"):
        if source.has(f"teacher.{key}"):
            yield _contradiction(
                f"teacher.{key}",
                f"`teacher.{key}` places weights that `teacher.server` keeps elsewhere",
                f"remove `teacher.{key}` or `[teacher.server]`",
            )


def a_server_teacher_has_an_address(source: Source) -> Iterator[Diagnostic]:
    if not source.has("teacher.server"):
        return
    has_one, has_several = source.has("teacher.server.url"), source.has("teacher.server.urls")
    if has_one and has_several:
        yield _contradiction(
            "teacher.server.urls",
            "`teacher.server.url` and `teacher.server.urls` both say where the teacher is",
            "keep `url` for one teacher, or `urls` with `column` for several",
            f"`url` is written on line {source.locate('teacher.server.url').line}",
        )
    if not has_one and not has_several:
        yield _contradiction(
            "teacher.server",
            "`teacher.server` does not say where the teacher is",
            'add `url = "http://HOST:PORT"`',
        )


def several_teachers_need_a_column(source: Source) -> Iterator[Diagnostic]:
    has_several, has_column = (source.has(f"teacher.server.{key}") for key in ("urls", "column"))
    if has_several and not has_column:
        yield _contradiction(
            "teacher.server.urls",
            "`teacher.server.urls` does not say which row has which teacher",
            'add `column = "..."`, the column of the data that holds one of its keys',
        )
    if has_column and not has_several:
        yield _contradiction(
            "teacher.server.column",
            "`teacher.server.column` is read only with `teacher.server.urls`",
            'write `urls = { VALUE = "http://HOST:PORT" }`, or remove `column`',
        )


def prefetch_needs_an_offload(source: Source) -> Iterator[Diagnostic]:
    for table in ("teacher", "optimizer"):
        offload = source.value(f"{table}.offload") or "none"
        if source.has(f"{table}.prefetch") and offload == "none":
            yield _contradiction(
                f"{table}.prefetch",
                f'`{table}.prefetch` is read only with `{table}.offload = "cpu"` or "auto"',
                f"set `{table}.offload`, or remove `prefetch`",
                "nothing leaves the device",
            )


def a_stream_needs_weights_on_the_host(source: Source) -> Iterator[Diagnostic]:
    if source.value("teacher.stream") is not True:
        return
    if source.value("teacher.offload") != "cpu" and not source.has("teacher.server"):
        yield _contradiction(
            "teacher.stream",
            '`teacher.stream` brings weights from where `teacher.offload = "cpu"` keeps them',
            'set `teacher.offload = "cpu"`, or remove `stream`',
        )
    if source.has("teacher.prefetch"):
        yield _contradiction(
            "teacher.prefetch",
            "`teacher.prefetch` brings the whole teacher, and `teacher.stream` a layer at a time",
            "remove `prefetch` or `stream`",
        )


def a_server_teacher_gives_its_likeliest_ids(source: Source) -> Iterator[Diagnostic]:
    if not source.has("teacher.server"):
        return
    payload = source.value("distill.payload")
    if payload in ("hidden", "logits"):
        yield _contradiction(
            "distill.payload",
            f'`distill.payload = "{payload}"` is not what a `teacher.server` can give',
            "remove `distill.payload`: a server gives the likeliest ids of each token",
        )
    asked = source.value("teacher.server.top_k")
    asked = Server.model_fields["top_k"].default if asked is None else asked
    if source.has("distill.top_k") and source.value("distill.top_k") != asked:
        yield _contradiction(
            "distill.top_k",
            "`distill.top_k` and `teacher.server.top_k` ask for different numbers of ids",
            "remove `distill.payload` and `distill.top_k`: `teacher.server.top_k` decides",
            f"the server is asked for {asked}",
        )


def top_k_is_a_payload(source: Source) -> Iterator[Diagnostic]:
    payload = source.value("distill.payload") or "auto"
    if source.has("distill.top_k") and payload != "top_k":
        yield _contradiction(
            "distill.top_k",
            '`distill.top_k` is read only with `distill.payload = "top_k"`',
            'set `distill.payload = "top_k"`, or remove `top_k`',
            f"the payload is {payload}",
        )
    if payload == "top_k" and not source.has("distill.top_k"):
        yield _contradiction(
            "distill.payload",
            '`distill.payload = "top_k"` does not say how many',
            "add `top_k = 64` to `[distill]`",
        )


def server_mode_needs_a_url(source: Source) -> Iterator[Diagnostic]:
    is_server = source.value("generation.mode") == "server"
    if is_server and not source.has("generation.server_url"):
        yield _contradiction(
            "generation.mode",
            '`generation.mode = "server"` does not say where the server is',
            'add `server_url = "http://HOST:PORT"` to `[generation]`',
        )
    if not is_server and source.has("generation.server_url"):
        yield _contradiction(
            "generation.server_url",
            '`generation.server_url` is read only with `generation.mode = "server"`',
            'set `generation.mode = "server"`, or remove `server_url`',
        )


def a_server_is_of_vllm(source: Source) -> Iterator[Diagnostic]:
    engine = source.value("generation.engine") or Generation.model_fields["engine"].default
    if source.value("generation.mode") == "server" and engine != "vllm":
        yield _contradiction(
            "generation.mode",
            '`generation.mode = "server"` is read only with `generation.engine = "vllm"`',
            'set `generation.engine = "vllm"`, or remove `mode`',
            f"the engine is {engine}",
        )


def only_a_server_draws_ahead(source: Source) -> Iterator[Diagnostic]:
    if source.value("generation.staleness") == 1 and source.value("generation.mode") != "server":
        yield _contradiction(
            "generation.staleness",
            '`generation.staleness = 1` is read only with `generation.mode = "server"`',
            'set `generation.mode = "server"`, or remove `staleness`',
            "ranks that train cannot sample meanwhile",
        )


def the_learning_rate_falls(source: Source) -> Iterator[Diagnostic]:
    lr, min_lr = source.value("optimizer.lr"), source.value("optimizer.min_lr")
    lr = Optimizer.model_fields["lr"].default if lr is None else lr
    if min_lr is not None and source.value("optimizer.schedule") == "constant":
        yield _contradiction(
            "optimizer.min_lr",
            '`optimizer.min_lr` is not read with `optimizer.schedule = "constant"`',
            'remove `min_lr`, or set `optimizer.schedule` to "linear" or "cosine"',
        )
    elif type(lr) in (int, float) and type(min_lr) in (int, float) and min_lr > lr:
        yield _contradiction(
            "optimizer.min_lr",
            "`optimizer.min_lr` is larger than `optimizer.lr`",
            f"set `optimizer.min_lr` to at most {format_value(lr)}",
            f"the learning rate falls from {format_value(lr)}",
        )


CHECKS: tuple[Callable[[Source], Iterator[Diagnostic]], ...] = (
    a_cpu_has_torch_kernels,
    a_cpu_has_no_triton,
    epochs_or_steps,
    kept_layers_need_init_layers,
    kept_layers_rise,
    lora_needs_its_tuning,
    stages_are_given_one_way,
    recompute_keys_need_their_granularity,
    a_teacher_is_one_model,
    an_average_follows_the_student,
    a_server_teacher_holds_no_weights_here,
    a_server_teacher_has_an_address,
    several_teachers_need_a_column,
    a_server_teacher_gives_its_likeliest_ids,
    prefetch_needs_an_offload,
    a_stream_needs_weights_on_the_host,
    top_k_is_a_payload,
    server_mode_needs_a_url,
    a_server_is_of_vllm,
    only_a_server_draws_ahead,
    the_learning_rate_falls,
)
