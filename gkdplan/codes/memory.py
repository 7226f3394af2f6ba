"""Memory: what fits."""

from gkdplan.codes.code import Code

CODES: dict[str, Code] = {
    "GK301": Code(
        "a plan that does not fit",
        "The run would end in an out-of-memory error, perhaps after hours.",
        "Take one of the edits shown; each was priced before it was named.",
    ),
    "GK302": Code(
        "a plan that fits only just",
        "Above 80% of the memory, fragmentation decides whether a run survives.",
        "Lower `batch.micro`, shorten rows, or offload the teacher, for some headroom.",
    ),
    "GK303": Code(
        "host memory too small for what is offloaded",
        "What is offloaded stays in the host's pinned memory for the whole run.",
        "Offload less, or use fewer ranks on a node.",
    ),
    "GK304": Code(
        "a memory limit above the device's memory",
        "The verdict would approve what the device cannot hold.",
        "Remove it, or set it to at most what the device has.",
    ),
    "GK305": Code(
        "a share of memory without room for a kv cache",
        "Of its share vllm first takes weights, the peak of a forward and its graphs.",
        "Raise `generation.gpu_memory_utilization`, or the engine's tensor degree.",
    ),
    "GK306": Code(
        "a kv cache that holds no whole sequence",
        "vllm refuses to start where a prompt with its longest response does not fit the cache.",
        "Raise `generation.gpu_memory_utilization`, or shorten prompts and responses.",
    ),
    "GK307": Code(
        "an offload that the planner decided",
        'With "auto" it takes what fits, else what is tight, at the least exposed transfer time.',
        'Nothing, or write "none" or "cpu" in place of "auto" to decide yourself.',
    ),
    "GK308": Code(
        "a prefetch that no phase could hide",
        "A copy runs beside what comes before its use; where nothing does it can only be awaited.",
        "Remove `prefetch`, or let the student sample: its responses come before the teacher.",
    ),
}
