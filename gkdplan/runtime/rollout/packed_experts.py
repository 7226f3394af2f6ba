"""What vLLM 0.32 multiplies with on a CPU in place of an expert's weights: a packed copy."""

from torch.nn import Module


def pack_experts_anew(model: Module) -> None:
    """To be called before a refit on a CPU: each layer's experts are then packed as they arrive.

    vLLM packs them as it makes their kernel, which it does at the first load only; a later one
    leaves weights as they came where the kernel looks for packed ones, or fails where packing
    widens them (vllm/model_executor/layers/fused_moe/unquantized_fused_moe_method.py,
    _setup_kernel). Without its kernel a layer makes another.
    """
    for layer in model.modules():
        method = getattr(layer, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None
