"""Layout: how ranks, tensors, layers and experts divide."""

from gkdplan.codes.code import Code

_MEGATRON = "megatron-core 0.16.1"
_MESH = f"{_MEGATRON}, megatron/core/parallel_state.py, initialize_model_parallel"
_CONFIG = f"{_MEGATRON}, megatron/core/transformer/transformer_config.py"
_BLOCK = f"{_MEGATRON}, megatron/core/transformer/transformer_block.py, get_num_layers_to_build"
_LINEAR = f"{_MEGATRON}, megatron/core/tensor_parallel/layers.py, as the model is built"
_MOE_LAYER = f"{_MEGATRON}, megatron/core/transformer/moe/moe_layer.py"

_MESH_AND_TENSOR = {
    "GK201": Code(
        "ranks that do not divide into the groups of an axis",
        "Every rank belongs to one tensor, one context and one pipeline group, so the product of "
        "the degrees divides their number.",
        "Set the degree so that tensor x context x pipeline divides num_nodes x devices_per_node.",
        _MESH,
    ),
    "GK202": Code(
        "attention heads that a tensor degree does not divide",
        "Megatron gives every rank of a tensor group the same number of whole heads.",
        "Set `parallel.tensor` to one of the degrees shown.",
        _CONFIG,
    ),
    "GK203": Code(
        "kv heads that a tensor degree does not divide",
        "A rank owns whole kv heads; ranks may share one only if each head has as many ranks.",
        "Set `parallel.tensor` to one of the degrees shown.",
        _CONFIG,
    ),
    "GK204": Code(
        "an ffn width that a tensor degree does not divide",
        "Megatron cuts the gated MLP, or the expert that sees every token, into equal shares.",
        "Set `parallel.tensor` to one of the degrees shown.",
        _LINEAR,
    ),
    "GK205": Code(
        "sequence parallelism without a tensor axis",
        "It divides tokens over the tensor axis; with one rank there is nothing to divide.",
        "Remove `sequence`, or raise `tensor`; left out, it follows the tensor axis.",
        f"{_MEGATRON}, megatron/core/model_parallel_config.py",
    ),
    "GK206": Code(
        "kept layers that a student cannot be made of",
        "The student is built from the named layers of a checkpoint, in its order.",
        "Name layers from 0 to the depth less one, rising, each once.",
    ),
    "GK207": Code(
        "a tensor group that spans nodes",
        "Its ranks exchange data in every layer, and the network between nodes is far slower.",
        "Choose a tensor degree that divides the devices of a node.",
    ),
    "GK208": Code(
        "ranks that do not divide into expert groups",
        "The experts have a mesh of their own over the same ranks, and expert_tensor x expert x "
        "pipeline divides their number; it need not divide the data ranks.",
        "Set the degree to one of those shown.",
        _MESH,
    ),
    "GK209": Code(
        "a query, key and value projection that tensor does not divide",
        "Where ranks share kv heads the fused projection is cut by columns, not by heads.",
        "Set `parallel.tensor` to one of the degrees shown.",
        _LINEAR,
    ),
    "GK240": Code(
        "a student that vllm's tensor degree does not divide",
        "vllm gives each rank of an engine whole heads and an equal share of every matrix.",
        "Set `generation.tensor` to one of the degrees shown.",
    ),
    "GK241": Code(
        "ranks that do not divide into engines",
        "Every rank belongs to one engine, and the ranks of an engine to one node.",
        "Set `generation.tensor` to a divisor of `cluster.devices_per_node`.",
    ),
    "GK242": Code(
        "heads that vllm has no kernel for",
        "On a cpu vllm's attention is compiled for some sizes of a head or a latent only.",
        'Sample with `generation.engine = "megatron"`, which takes every size.',
    ),
}

_PIPELINE = {
    "GK210": Code(
        "layers that do not divide over the pipeline stages",
        "Stages without a number of their own take equal shares of the layers, one at least.",
        "Choose another `pipeline`, give the ends numbers, or write `stage_layers`.",
        f"{_CONFIG}, and transformer_block.py, get_num_layers_to_build, as the model is built",
    ),
    "GK211": Code(
        "pipeline ends that take more than there is",
        "Other stages take what the ends leave; Megatron itself would build them of fewer than no "
        "layers.",
        "Lower `first_stage_layers` or `last_stage_layers`, or remove one.",
    ),
    "GK212": Code(
        "stage counts that are not the model's layers",
        "`stage_layers` names every stage, and every layer belongs to one.",
        "Write as many numbers as there are stages, with the number of layers as their sum.",
        f"{_MEGATRON}, megatron/core/transformer/pipeline_parallel_layer_layout.py",
    ),
    "GK213": Code(
        "a stage that does not divide into its virtual stages",
        "With `virtual_pipeline` a stage holds several runs of layers, all of one length.",
        "Set `virtual_pipeline` to one of the degrees shown, or give stages other numbers.",
        _BLOCK,
    ),
    "GK214": Code(
        "a given stage that does not divide into its virtual stages",
        "`stage_layers` counts the layers of a stage, which its virtual stages share equally.",
        "Write multiples of `virtual_pipeline`.",
    ),
    "GK215": Code(
        "virtual stages without a pipeline",
        "Interleaving lets the chunks of several stages take turns; one stage has no turns.",
        "Remove `virtual_pipeline`, or set `pipeline` above 1.",
        _MESH,
    ),
    "GK216": Code(
        "micro-batches that do not fill interleaved groups",
        "A virtual stage takes as many micro-batches in a row as there are stages; a smaller last "
        "group would leave ranks waiting.",
        "Set `batch.global` so that the micro-batches are a multiple of the stages.",
        f"{_MEGATRON}, megatron/core/pipeline_parallel/schedules.py, as the first step runs",
    ),
}

_EXPERTS_AND_TOKENS = {
    "GK220": Code(
        "experts that an expert degree does not divide",
        "Every rank of an expert group owns the same number of whole experts.",
        "Set `parallel.expert` to one of the degrees shown.",
        f"{_MOE_LAYER}, as the model is built",
    ),
    "GK221": Code(
        "an expert's width that expert_tensor does not divide",
        "The matrices of an expert are cut into equal shares.",
        "Set `parallel.expert_tensor` to one of the degrees shown.",
        _LINEAR,
    ),
    "GK222": Code(
        "an expert axis without experts",
        "A dense model has nothing to spread over it.",
        "Remove `expert`; a dense teacher of a student with experts needs its own layout.",
        _CONFIG,
    ),
    "GK223": Code(
        "an expert tensor axis without experts",
        "It cuts the matrices of experts only; in a dense model it would be ignored.",
        "Remove `expert_tensor`; a dense teacher of a student with experts needs its own layout.",
    ),
    "GK224": Code(
        "experts on a tensor axis without sequence parallelism",
        "Every tensor rank would route the same tokens and send them to the experts again.",
        "Remove `sequence = false`, or set `tensor` to 1 and spread the experts instead.",
        f"{_MOE_LAYER}, as the first step runs; a teacher does not train and is not asked",
    ),
    "GK225": Code(
        "rows that are mostly padding",
        "A row is padded until tensor and context ranks can share it; short rows grow most.",
        "Lower the degree, or let rows be longer.",
    ),
    "GK226": Code(
        "experts that tensor ranks hold whole, without an expert axis",
        "megatron-core 0.16.1 sums the gradients of such experts over the data ranks only, though "
        "each tensor rank sends them other tokens: the copies would drift apart, unnoticed.",
        "Cut the experts over the tensor ranks too, or spread them over an expert axis.",
    ),
    "GK227": Code(
        "a load balancing loss of a student without experts",
        "It is a loss over the choice of a router; in a dense model it would be ignored.",
        "Remove `router_aux_loss_coef`.",
    ),
    "GK228": Code(
        "a load balancing loss under block recompute",
        "megatron-core 0.16.1 hands the places of padding only to the layers that it makes again; "
        "the others would balance a load that padding is part of.",
        'Use the method "uniform", or no load balancing loss.',
    ),
}

_RECOMPUTE = {
    "GK230": Code(
        "full recompute that does not say of which layers",
        '"uniform" keeps the input of every run of `num_layers` layers; "block" recomputes the '
        "first `num_layers` of a chunk.",
        "Add `method` and `num_layers` to `[student.recompute]`.",
        _CONFIG,
    ),
    "GK231": Code(
        "a module that cannot be computed again",
        "Megatron knows a fixed list of modules, of which some need other kernels or models.",
        "Write the names that are shown.",
        _CONFIG,
    ),
    "GK232": Code(
        "a module that the student does not have",
        "Megatron passes over it, and the memory it should save stays in use.",
        "Name a module that the student has.",
    ),
    "GK233": Code(
        "more recomputed layers than a rank has",
        'With "block" Megatron takes what there is: the number says more than what happens.',
        "Lower `num_layers` to the length that is shown.",
    ),
    "GK234": Code(
        "units of recompute that do not divide a rank's layers",
        'With "uniform" Megatron steps over the layers in whole units, past the last one too.',
        "Set `num_layers` to one of the divisors that are shown.",
        f"{_MEGATRON}, megatron/core/transformer/transformer_block.py, as the first step runs",
    ),
}
_LORA = {
    "GK250": Code(
        "a target that is no projection",
        "An adapter sits beside a linear map of a layer, under the name that Hugging Face gives "
        "the map. Megatron fuses q, k and v, and gate and up: each named part has an A and a B of "
        "its own, as in PEFT, and the others have none. What lies fused in the checkpoint, as "
        "Phi-3's qkv_proj, is one map with one A.",
        'Write names that are shown, or "all-linear" for all of them.',
    ),
    "GK251": Code(
        "adapters of kv heads that ranks share",
        "With fewer kv heads than tensor ranks Megatron cuts the fused projection where a rank's "
        "rows end, so that one holds other parts than another.",
        "Lower the tensor degree, or leave q, k and v without adapters.",
        f"{_MEGATRON}, megatron/core/transformer/attention.py",
    ),
}

CODES: dict[str, Code] = {
    **_MESH_AND_TENSOR,
    **_PIPELINE,
    **_EXPERTS_AND_TOKENS,
    **_RECOMPUTE,
    **_LORA,
}
