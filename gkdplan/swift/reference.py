"""docs/from_ms_swift.md, written from the tables: `python -m gkdplan.swift.reference`."""

from collections.abc import Iterator

from gkdplan.swift import keys
from gkdplan.swift.command import RENAMED
from gkdplan.swift.remarks import HAS_NONE, NEEDS_NONE

TOGETHER: tuple[tuple[str, str], ...] = (
    ("NPROC_PER_NODE, CUDA_VISIBLE_DEVICES, NNODES", "cluster.devices_per_node and num_nodes"),
    (
        "train.gpus, rollout.gpus, teacher.gpus, colocate_groups",
        "cluster, and servers beside it",
    ),
    ("torch_dtype", "student.dtype"),
    ("teacher_model, teacher_model_revision", "teacher.model and revision; none: teacher.self"),
    ("teacher_model_server, gkd_logits_topk", "teacher.server.url and top_k"),
    ("gkd_logits_topk", 'distill.payload = "top_k" and top_k, where no server answers'),
    ("offload_teacher_model", "teacher.offload"),
    ("use_vllm, vllm_mode", "generation.engine and mode"),
    ("vllm_server_base_url, vllm_server_host, vllm_server_port", "generation.server_url"),
    ("vllm_gpu_memory_utilization, vllm_tensor_parallel_size", "generation, colocated"),
    ("sleep_level, top_k", "generation.sleep_level and top_k"),
    ("offload_model, offload_optimizer", "student.offload and optimizer.offload"),
    ("optimizer_cpu_offload", "optimizer.offload"),
    ("tuner_type, lora_rank, lora_alpha, lora_dropout, target_modules", "student.tuning and lora"),
    ("freeze_vit, freeze_aligner", "student.freeze_vision and freeze_projector, in full tuning"),
    ("sequence_parallel", "student.parallel.sequence, with tensor ranks"),
    ("recompute_granularity, recompute_modules", "student.recompute, ms-swift's defaults included"),
    ("recompute_method, recompute_num_layers", "student.recompute, for full recompute"),
    ("dataset, val_dataset", "data.train and eval"),
    ("truncation_strategy", "data.truncation"),
    ("adam_beta1, adam_beta2", "optimizer.betas"),
    ("lr_decay_style", "optimizer.schedule"),
    ("lr_warmup_fraction, lr_warmup_iters", "optimizer.warmup_fraction"),
    ("save_steps, eval_steps, report_to", "run.save_interval, eval_interval and loggers"),
)
"""What several flags, or a flag and its absence, decide."""


def reference() -> str:
    """Markdown: every flag that is known, and where it went."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    yield from _INTRODUCTION.splitlines()
    yield from ("", "## Flags that are a key", "", "| ms-swift | plan |", "|---|---|")
    yield from (f"| {name} | {key} |" for key, (name, _) in keys.DIRECT.items())
    yield from (f"| {names} | {what} |" for names, what in TOGETHER)
    yield from (
        "",
        "## Flags that need no key",
        "",
        "| ms-swift | of value | why |",
        "|---|---|---|",
    )
    for name, (values, why) in NEEDS_NONE.items():
        yield f"| {name} | {' or '.join(sorted(values)) or 'any'} | {why} |"
    yield from ("", "## Flags without a counterpart", "", "| ms-swift | why |", "|---|---|")
    yield from (f"| {name} | {why} |" for name, why in HAS_NONE.items())
    yield from ("", "## Names of 3.x", "")
    yield ", ".join(f"`{old}` is `{new}`" for old, new in RENAMED.items()) + "."


_INTRODUCTION = """\
# From ms-swift

`gkdplan import swift FILE` reads a script with one `megatron rlhf --rlhf_type gkd` of ms-swift 3.12
to 4.6, or a YAML of its flags (also one for Ray), and writes a plan. Each key has the flag that it
was beside it. A flag that has no counterpart stands above them as a comment, and is a warning
(GK011): what it asked for is not done, and nothing is dropped unsaid.

```
gkdplan import swift train.sh -o plan.toml --device h100-80gb
gkdplan check plan.toml
```

Variables that the script sets are put in; what only a shell knows is refused (GK010). Where
ms-swift's default is another than a plan's, the plan has it as a key: selective recompute of the
attention, no sequence parallelism beside tensor ranks, `vllm_gpu_memory_utilization` 0.9, dropout
0.05 and a learning rate of 1e-4 for adapters, a checkpoint every 500 steps.

What a plan does otherwise: a draw has its own seed in every step, also after a resume; seq_kd is
done by the teacher; a teacher equal to the student of adapters is its base, loaded once; datasets
are files (a hub's name has to be downloaded first), of which `#N` takes the first N rows; images
that rows name by address are fetched from hosts of `data.image_hosts` alone, which the plan has to
name; every token of a batch weighs the same. There ms-swift repeats, leaves out, draws, fetches or
refuses it."""


if __name__ == "__main__":
    print(reference(), end="")
