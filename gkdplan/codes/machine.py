"""What a machine lacks for a plan: packages, weights, devices and memory."""

from gkdplan.codes.code import Code

CODES: dict[str, Code] = {
    "GK507": Code(
        "what running needs is not installed",
        "Checking and planning need four small packages; training needs torch and megatron-core.",
        "Install the extra: `pip install 'gkdplan[run]'`.",
    ),
    "GK515": Code(
        "fewer GPUs than the plan wants",
        "Each rank needs a device of its own.",
        "Run the plan on the machine it was planned for.",
    ),
    "GK516": Code(
        "a model that is not on this machine",
        "The plan was checked from facts, but running needs the weights.",
        "Download the model first and name its directory.",
    ),
    "GK519": Code(
        "a tokenizer that a run has not seen",
        "Teacher and student would learn over ids that were never compared token by token.",
        "Put tokenizer.json beside the model's config.json.",
    ),
    "GK521": Code(
        "weights that cannot be read",
        "A file is missing or cut short, so the model would hold other numbers than you named.",
        "Fetch the file again; a download that broke off is the usual cause.",
    ),
    "GK522": Code(
        "a checkpoint that lacks a tensor",
        "The parameter would start from arbitrary numbers.",
        "Name a complete checkpoint of the architecture that config.json describes.",
    ),
    "GK523": Code(
        "a tensor of another shape than the plan's",
        "config.json and the weights describe different models.",
        "Put the config.json beside the weights that belongs to them, and compile the plan again.",
    ),
    "GK524": Code(
        "a tensor that the model has no place for",
        "Leaving it out would compute another function than the checkpoint's.",
        "Name a model of a family that gkdplan knows; adapters must be merged first.",
    ),
    "GK525": Code(
        "kernels that are not installed",
        "Transformer Engine was asked for, or is the default on GPUs; others keep other bytes.",
        'Set `cluster.kernels = "torch"`, or install Transformer Engine.',
    ),
    "GK526": Code(
        "a loss that this machine cannot compile",
        "torch.compile writes C++ for a CPU, which takes a compiler.",
        "Install the compiler, or name another `distill.loss_backend`.",
    ),
    "GK527": Code(
        "an engine that is not installed",
        "vLLM is a large package of its own, and only plans that name it need it.",
        'Install the extra `vllm`, or sample with `generation.engine = "megatron"`.',
    ),
    "GK528": Code(
        "a package of a version that gkdplan was not tried with",
        "A run may end otherwise than its plan says.",
        "Install the version that is shown.",
    ),
    "GK585": Code(
        "a host with less memory than the plan needs",
        "What is offloaded, and on a cpu the ranks themselves, would not fit into what is free.",
        "Free memory, offload less, or take fewer devices a node.",
    ),
    "GK589": Code(
        "a GPU with less memory than a rank needs",
        "The plan was priced for another device, and would end without memory.",
        "Run it where it was planned for, or plan with `cluster.memory_limit`.",
    ),
}
