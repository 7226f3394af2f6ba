"""Flags that are no key of a plan: why none is needed, or why there is none."""

from gkdplan.swift.command import Flag

NEEDS_NONE: dict[str, tuple[frozenset[str], str]] = {
    name: (frozenset(values.split()), why)
    for name, values, why in (
        ("rlhf_type", "gkd", "a plan is one"),
        ("config", "", "it was read"),
        ("use_ray", "true false", "`gkdplan run` starts the processes itself"),
        ("model_type", "", "read from config.json"),
        ("teacher_model_type", "", "read from config.json"),
        ("load_safetensors", "true", "weights are read from safetensors"),
        ("save_safetensors", "true", "the student is saved as safetensors"),
        ("finetune", "", "a run begins with the student's weights"),
        ("no_load_optim", "true", "a run begins with a new optimizer"),
        ("no_load_rng", "true", "a run begins with its own seed"),
        ("merge_lora", "true", "the merged student is saved beside the adapters"),
        ("use_mcore_bridge", "true", "models are read and saved in Hugging Face's format"),
        ("bf16", "true", "it is student.dtype's default"),
        ("attention_softmax_in_fp32", "true", "it is always so"),
        ("cross_entropy_loss_fusion", "true false", "distill.loss_backend chooses the kernel"),
        ("attention_backend", "", "cluster.kernels chooses the kernel"),
        ("padding_free", "", "padding has no part in the loss"),
        ("remove_unused_columns", "", "columns that nothing reads are passed over"),
        ("dataset_num_proc", "", "rows are read as they are needed"),
        ("dataloader_num_workers", "", "rows are read as they are needed"),
        ("load_from_cache_file", "", "rows are read as they are needed"),
        ("split_dataset_ratio", "0 0.0", "held-out rows are data.eval"),
        ("log_completions", "true", "completions.jsonl holds them"),
        ("logging_steps", "", "metrics.jsonl has every step"),
        ("moe_grouped_gemm", "", "cluster.kernels chooses the kernel"),
        ("moe_permute_fusion", "", "cluster.kernels chooses the kernel"),
        ("moe_shared_expert_overlap", "", "it changes the time only"),
        ("moe_router_load_balancing_type", "aux_loss", "it is the loss of router_aux_loss_coef"),
        ("vllm_max_model_len", "", "data.max_length and generation.max_completion_length make it"),
        ("repetition_penalty", "1 1.0", "nothing is penalised"),
        ("steps_per_generation", "1", "every step has its own samples"),
        ("fp16", "false", "it is off"),
        ("packing", "false", "it is off"),
        ("streaming", "false", "it is off"),
        ("tp_comm_overlap", "false", "it is off"),
        ("overlap_grad_reduce", "false", "it is off"),
        ("overlap_param_gather", "false", "it is off"),
    )
}
"""By name: the values for which nothing is lost, of which none means all, and why."""

HAS_NONE: dict[str, str] = {
    "fp16": "weights are bf16 or fp32",
    "packing": "each row is a row of the batch",
    "streaming": "files are read as they are needed",
    "columns": "rows have messages, or prompt and completion",
    "template": "the tokenizer's own chat template is taken",
    "system": "write the system turn into the messages",
    "enable_thinking": "the tokenizer's own chat template is taken as it is",
    "loss_scale": "every token of the response counts once",
    "multi_turn_scheduler": "a response is one turn",
    "max_turns": "a response is one turn",
    "external_plugins": "no code of others is run",
    "steps_per_generation": "every step has its own samples",
    "repetition_penalty": "samples follow the model's own distribution",
    "mcore_model": "models are read in Hugging Face's format",
    "pipeline_model_parallel_layout": "student.parallel.stage_layers takes a list of layers",
    "num_layers_per_virtual_pipeline_stage": "student.parallel.virtual_pipeline counts the chunks",
    "tp_comm_overlap": "communication does not overlap",
    "overlap_grad_reduce": "communication does not overlap",
    "overlap_param_gather": "communication does not overlap",
    "no_save_optim": "a checkpoint holds what an exact resume needs",
    "no_save_rng": "a checkpoint holds what an exact resume needs",
    "no_load_optim": "a run begins with a new optimizer",
    "no_load_rng": "a run begins with its own seed",
    "merge_lora": "the merged student is always saved beside the adapters",
    "split_dataset_ratio": "put the held-out rows into a file of data.eval",
    "eval_iters": "every held-out row is evaluated",
    "log_completions": "completions.jsonl is always written",
    "wandb_project": "run.loggers names what is written",
    "wandb_run_name": "run.loggers names what is written",
    "vllm_enforce_eager": "the engine is set up by gkdplan",
    "vllm_server_timeout": "generation.server_patience_s says how long a server may be gone",
    "vllm_engine_kwargs": "the engine is set up by gkdplan",
    "vllm_server_pass_dataset": "a server gets token ids, nothing else",
    "optimizer_offload_fraction": "optimizer.offload moves all of the state or none",
    "lr_decay_iters": "the learning rate decays over the whole run",
}
"""By name: why a plan has no key for it."""


def needs_none(flag: Flag) -> str | None:
    """Why nothing is lost without this flag; None where something is."""
    values, why = NEEDS_NONE.get(flag.name, (frozenset(), ""))
    said = {word.lower() for word in flag.values} or {"true"}
    return why if why and (not values or said <= values) else None


def why_none(flag: Flag) -> str:
    """Why a plan has no key for this flag."""
    return HAS_NONE.get(flag.name, "gkdplan does not know this flag")
