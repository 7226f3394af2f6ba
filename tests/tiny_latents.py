"""Keys of tiny DeepSeek models' configs, for `tiny.save_family`."""

LATENTS = {
    "num_key_value_heads": 4,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "kv_lora_rank": 12,
    "q_lora_rank": 20,
    "moe_intermediate_size": 16,
    "n_shared_experts": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
}
OF_VLLM = LATENTS | {
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 64,
    "v_head_dim": 24,
    "kv_lora_rank": 512,
    "q_lora_rank": 40,
    "moe_intermediate_size": 32,
}
"""Of the sizes that vllm has kernels for on a CPU."""
GROUPS = {"n_group": 4, "topk_group": 2}


def yarn(factor: float) -> dict[str, object]:
    """Rotary positions that are stretched, as DeepSeek's are."""
    return {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": factor,
        "original_max_position_embeddings": 32,
        "mscale": 0.9,
        "mscale_all_dim": 0.7,
    }
