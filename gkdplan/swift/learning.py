"""What is trained and how: adapters, recompute, data, optimizer and how long."""

from collections.abc import Iterator

from gkdplan.swift.given import Given
from gkdplan.swift.said import DEFAULT, Loss, Said

LOGGERS = ("tensorboard", "wandb")
SAVE_STEPS = 500


def learning(given: Given) -> Iterator[Said | Loss]:
    """The tables of the student, the data, the optimizer and the run, but for single keys."""
    yield from _tuning(given)
    yield from _eyes(given)
    yield from _sequence(given)
    yield from _recompute(given)
    yield from _data(given)
    yield from _optimizer(given)
    yield from _run(given)


def _tuning(given: Given) -> Iterator[Said | Loss]:
    flag, kind = given.flag("tuner_type"), given.text("tuner_type") or "full"
    if kind not in ("full", "lora"):
        assert flag is not None
        yield Loss(flag, "a student is tuned in full, or by LoRA")
        return
    if flag:
        yield Said("student.tuning", kind, flag)
    if kind == "full":
        return
    targets, dropout = given.texts("target_modules"), given.number("lora_dropout")
    for name, key in (("lora_rank", "rank"), ("lora_alpha", "alpha")):
        value = given.count(name) if key == "rank" else given.number(name)
        if value is not None:
            yield Said(f"student.lora.{key}", value, given.flag(name))
    source = given.flag("lora_dropout") or DEFAULT
    yield Said("student.lora.dropout", 0.05 if dropout is None else dropout, source)
    if targets:
        yield Said("student.lora.targets", list(targets), given.flag("target_modules"))
    if given.flag("lr") is None:
        yield Said("optimizer.lr", 1e-4, f"{DEFAULT} for LoRA")


def _eyes(given: Given) -> Iterator[Said | Loss]:
    """What learns there beside adapters has adapters itself."""
    for name, key, part in (
        ("freeze_vit", "student.freeze_vision", "tower"),
        ("freeze_aligner", "student.freeze_projector", "projector"),
    ):
        flag, is_frozen = given.flag(name), given.truth(name)
        if flag is None:
            continue
        if is_frozen or given.text("tuner_type") != "lora":
            yield Said(key, is_frozen, flag)
        else:
            yield Loss(
                flag,
                f"adapters are the decoder's; with `{key} = false` the {part} would learn whole",
            )


def _sequence(given: Given) -> Iterator[Said]:
    """There it is off unless it is asked for, and has no meaning without tensor ranks."""
    tensor, flag = given.count("tensor_model_parallel_size") or 1, given.flag("sequence_parallel")
    asked = given.truth("sequence_parallel")
    if tensor > 1:
        yield Said("student.parallel.sequence", asked, flag or DEFAULT)


def _recompute(given: Given) -> Iterator[Said | Loss]:
    flag = given.flag("recompute_granularity")
    granularity = given.text("recompute_granularity") or "selective"
    yield Said("student.recompute.granularity", granularity, flag or DEFAULT)
    modules, named = given.texts("recompute_modules"), given.flag("recompute_modules")
    if granularity == "selective":
        source = named or DEFAULT
        yield Said("student.recompute.modules", list(modules or ("core_attn",)), source)
    elif named:
        yield Loss(named, "it says something of selective recompute only")
    for name, key in (("recompute_method", "method"), ("recompute_num_layers", "num_layers")):
        value = given.text(name) if key == "method" else given.count(name)
        if value is None:
            continue
        if granularity == "full":
            yield Said(f"student.recompute.{key}", value, given.flag(name))
        else:
            found = given.flag(name)
            assert found is not None
            yield Loss(found, "it says something of full recompute only")


def _data(given: Given) -> Iterator[Said | Loss]:
    for name, key in (("dataset", "data.train"), ("val_dataset", "data.eval")):
        files = given.texts(name)
        if files:
            yield Said(key, list(files), given.flag(name))
    flag, strategy = given.flag("truncation_strategy"), given.text("truncation_strategy")
    if flag and strategy in ("delete", "left", "right"):
        yield Said("data.truncation", strategy, flag)
    elif flag:
        yield Loss(flag, "a row is deleted, cut on the left or cut on the right")


def _optimizer(given: Given) -> Iterator[Said | Loss]:
    kind = given.flag("optimizer")
    if kind and kind.values != ("adam",):
        yield Loss(kind, "students move by AdamW")
    betas = [given.number("adam_beta1"), given.number("adam_beta2")]
    if betas != [None, None]:
        both = [0.9 if betas[0] is None else betas[0], 0.95 if betas[1] is None else betas[1]]
        yield Said("optimizer.betas", both, "--adam_beta1 and --adam_beta2")
    style, flag = given.text("lr_decay_style"), given.flag("lr_decay_style")
    if flag and style in ("cosine", "linear", "constant"):
        yield Said("optimizer.schedule", style, flag)
    elif flag:
        yield Loss(flag, "the schedules are constant, linear and cosine")
    yield from _warmup(given)
    for name in ("offload_optimizer", "optimizer_cpu_offload"):
        if given.truth(name):
            yield Said("optimizer.offload", "cpu", given.flag(name))


def _warmup(given: Given) -> Iterator[Said | Loss]:
    fraction, steps = given.number("lr_warmup_fraction"), given.count("lr_warmup_iters")
    if fraction is not None:
        yield Said("optimizer.warmup_fraction", fraction, given.flag("lr_warmup_fraction"))
    if not steps:
        return
    flag, num_steps = given.flag("lr_warmup_iters"), given.count("train_iters")
    assert flag is not None
    if fraction is None and num_steps:
        source = f"{flag} of {given.flag('train_iters')}"
        yield Said("optimizer.warmup_fraction", round(steps / num_steps, 9), source)
    else:
        yield Loss(flag, "optimizer.warmup_fraction is a share of the steps")


def _run(given: Given) -> Iterator[Said | Loss]:
    interval, num_steps = given.count("save_steps"), given.count("train_iters")
    if interval is not None:
        yield Said("run.save_interval", interval, given.flag("save_steps"))
    elif num_steps is None or num_steps > SAVE_STEPS:
        yield Said("run.save_interval", SAVE_STEPS, DEFAULT)
    every = given.count("eval_steps")
    if every is not None or given.flag("val_dataset"):
        value = every if every is not None else interval or SAVE_STEPS
        yield Said("run.eval_interval", value, given.flag("eval_steps") or "that of saving")
    flag, loggers = given.flag("report_to"), given.texts("report_to") or ("tensorboard",)
    known = [name for name in loggers if name in LOGGERS]
    yield Said("run.loggers", known, flag or DEFAULT)
    if flag and set(loggers) - set(LOGGERS) - {"none"}:
        yield Loss(flag, f"metrics.jsonl is always written, beside {' and '.join(LOGGERS)}")
