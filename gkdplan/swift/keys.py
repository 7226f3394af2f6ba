"""Flags of ms-swift that are a key of a plan, in the order of a plan."""

from gkdplan.swift.given import Given

TEXT, COUNT, NUMBER, TRUTH = "text", "count", "number", "truth"

DIRECT: dict[str, tuple[str, str]] = {
    "student.model": ("model", TEXT),
    "student.revision": ("model_revision", TEXT),
    "student.router_aux_loss_coef": ("moe_aux_loss_coeff", NUMBER),
    "student.freeze_language": ("freeze_llm", TRUTH),
    "student.parallel.tensor": ("tensor_model_parallel_size", COUNT),
    "student.parallel.pipeline": ("pipeline_model_parallel_size", COUNT),
    "student.parallel.virtual_pipeline": ("virtual_pipeline_model_parallel_size", COUNT),
    "student.parallel.first_stage_layers": ("decoder_first_pipeline_num_layers", COUNT),
    "student.parallel.last_stage_layers": ("decoder_last_pipeline_num_layers", COUNT),
    "student.parallel.context": ("context_parallel_size", COUNT),
    "student.parallel.expert": ("expert_model_parallel_size", COUNT),
    "student.parallel.expert_tensor": ("expert_tensor_parallel_size", COUNT),
    "distill.beta": ("beta", NUMBER),
    "distill.lmbda": ("lmbda", NUMBER),
    "distill.seq_kd": ("seq_kd", TRUTH),
    "distill.temperature": ("temperature", NUMBER),
    "distill.sft_alpha": ("sft_alpha", NUMBER),
    "generation.max_completion_length": ("max_completion_length", COUNT),
    "generation.top_p": ("top_p", NUMBER),
    "data.max_length": ("max_length", COUNT),
    "batch.micro": ("micro_batch_size", COUNT),
    "batch.global": ("global_batch_size", COUNT),
    "optimizer.lr": ("lr", NUMBER),
    "optimizer.min_lr": ("min_lr", NUMBER),
    "optimizer.weight_decay": ("weight_decay", NUMBER),
    "optimizer.eps": ("adam_eps", NUMBER),
    "optimizer.clip_grad": ("clip_grad", NUMBER),
    "optimizer.distributed": ("use_distributed_optimizer", TRUTH),
    "run.output": ("output_dir", TEXT),
    "run.epochs": ("num_train_epochs", COUNT),
    "run.steps": ("train_iters", COUNT),
    "run.keep": ("save_total_limit", COUNT),
    "run.async_save": ("async_save", TRUTH),
    "run.seed": ("seed", COUNT),
}
"""A key of a plan: the flag that it is, and what kind of value that has."""


def read(given: Given, name: str, kind: str) -> object:
    """The value of a flag as TOML has it; None where it is not given."""
    match kind:
        case "text":
            return given.text(name)
        case "count":
            return given.count(name)
        case "number":
            return given.number(name)
    return given.truth(name) if given.flag(name) else None
