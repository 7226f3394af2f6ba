"""Every layout whose step is held against one process: a pair of models, and how they are spread.

Names of the axes: T tensor, P pipeline, C context, E expert, D data.
"""

from dataclasses import dataclass, field

UNIFORM = 'granularity = "full"\nmethod = "uniform"\nnum_layers = 2'
BLOCK = 'granularity = "full"\nmethod = "block"\nnum_layers = 1'
CORE_ATTENTION = 'granularity = "selective"'
NORM_AND_MLP = 'granularity = "selective"\nmodules = ["layernorm", "mlp"]'
WHOLE_SEQUENCE = "sequence = false"
VIRTUAL = "pipeline = 2", "virtual_pipeline = 2"
REPLICATED = {"distributed": "false"}
LIKELIEST = {"payload": "top_k", "distill": "top_k = 8\nsft_alpha = 0.5"}


@dataclass(frozen=True)
class Case:
    """`changes` are the plan's, `teacher` the axes of a teacher with a layout of its own."""

    pair: str
    num_ranks: int
    changes: dict[str, object] = field(default_factory=dict)
    teacher: str = ""


def case(
    pair: str,
    num_ranks: int,
    *axes: str,
    tensor: int = 1,
    teacher: str = "",
    **changes: object,
) -> Case:
    parallel = {"devices": num_ranks, "tensor": tensor, "parallel": "\n".join(axes)}
    return Case(pair, num_ranks, parallel | changes, teacher)


MATRIX = {
    "one process": case("qwen3 to llama", 1),
    "micro-batches of one row": case("qwen3 to llama", 1, micro=1),
    "uniform recompute": case("llama to tied qwen2", 1, recompute=UNIFORM),
    "block recompute": case("llama to tied qwen2", 1, recompute=BLOCK),
    "recomputed core attention": case("qwen3 to llama", 1, recompute=CORE_ATTENTION),
    "recomputed norms and mlp": case("qwen3 to llama", 1, recompute=NORM_AND_MLP),
    "T2": case("qwen3 to llama", 2, tensor=2),
    "T2 of a tied student": case("llama to tied qwen2", 2, tensor=2),
    "T2 with whole sequences": case("qwen3 to llama", 2, WHOLE_SEQUENCE, tensor=2),
    "T2 with uniform recompute": case("llama to tied qwen2", 2, tensor=2, recompute=UNIFORM),
    "D2": case("qwen3 to llama", 2, micro=1),
    "D2 with a replicated optimizer": case("llama to tied qwen2", 2, **REPLICATED),
    "C2": case("qwen3 to llama", 2, "context = 2"),
    "C2 with block recompute": case("llama to tied qwen2", 2, "context = 2", recompute=BLOCK),
    "P2": case("qwen3 to llama", 2, "pipeline = 2"),
    "P2 of a tied student": case("llama to tied qwen2", 2, "pipeline = 2"),
    "P2 with a replicated optimizer": case("llama to tied qwen2", 2, "pipeline = 2", **REPLICATED),
    "P2 of 1 and 3 layers": case("qwen3 to llama", 2, "pipeline = 2", "first_stage_layers = 1"),
    "P2 with uniform recompute": case("qwen3 to llama", 2, "pipeline = 2", recompute=UNIFORM),
    "P2 V2": case("qwen3 to llama", 2, *VIRTUAL),
    "P2 V2 of a tied student": case("llama to tied qwen2", 2, *VIRTUAL, micro=1),
    "P4": case("llama to tied qwen2", 4, "pipeline = 4"),
    "T2 P2": case("qwen3 to llama", 4, "pipeline = 2", tensor=2),
    "T2 P2 of a tied student": case("llama to tied qwen2", 4, "pipeline = 2", tensor=2),
    "T2 P2 V2": case("qwen3 to llama", 4, *VIRTUAL, tensor=2),
    "P2 C2": case("qwen3 to llama", 4, "pipeline = 2", "context = 2"),
    "P2 D2": case("llama to tied qwen2", 4, "pipeline = 2", micro=1),
    "P2 V2 D2": case("qwen3 to llama", 4, *VIRTUAL, micro=1, **REPLICATED),
    "T2 C2": case("qwen3 to llama", 4, "context = 2", tensor=2),
    "T2 D2": case("llama to tied qwen2", 4, tensor=2, **REPLICATED),
    "D2 of a teacher with T2": case("qwen3 to llama", 2, teacher="tensor = 2"),
    "P2 of a teacher with T2 and logits": case(
        "llama to tied qwen2", 2, "pipeline = 2", teacher="tensor = 2", payload="logits"
    ),
    "T2 of a teacher with C2 and logits": case(
        "qwen3 to llama", 2, tensor=2, teacher="context = 2", payload="logits"
    ),
    "T2 P2 of a teacher with T4": case(
        "qwen3 to llama", 4, "pipeline = 2", tensor=2, teacher="tensor = 4"
    ),
    "C2 of a teacher with P2": case(
        "llama to tied qwen2", 2, "context = 2", teacher="pipeline = 2"
    ),
    "C2 D2": case("llama to tied qwen2", 4, "context = 2"),
    "P2 V2 from the likeliest ids": case("qwen3 to llama", 2, *VIRTUAL, **LIKELIEST),
    "T2 C2 from the likeliest ids": case("qwen3 to llama", 4, "context = 2", tensor=2, **LIKELIEST),
    "experts on one process": case("experts to experts", 1),
    "E2": case("experts to experts", 2, "expert = 2", micro=1),
    "E2 with a replicated optimizer": case("experts to experts", 2, "expert = 2", **REPLICATED),
    "ET2": case("experts to experts", 2, "expert_tensor = 2", tensor=2),
    "E2 T2": case("experts to experts", 2, "expert = 2", tensor=2),
    "E2 ET2 T2": case("experts to experts", 4, "expert = 2", "expert_tensor = 2", tensor=2),
    "E2 P2": case("experts to experts", 4, "expert = 2", "pipeline = 2"),
    "E2 C2": case("experts to experts", 2, "expert = 2", "context = 2"),
    "E2 D4": case("experts to experts", 4, "expert = 2", micro=1),
    "E2 from a dense teacher": case("dense to experts", 2, "expert = 2", teacher="tensor = 1"),
    "E2 T2 of olmoe": case("olmoe to olmoe", 2, "expert = 2", tensor=2),
    "P2 of olmoe": case("olmoe to olmoe", 2, "pipeline = 2"),
    "D2 from experts": case("experts to dense", 2, teacher="expert = 2"),
    "mixed layers on one process": case("mixed to mixed", 1),
    "E2 of mixed layers": case("mixed to mixed", 2, "expert = 2", micro=1),
    "E2 T2 of mixed layers": case("mixed to mixed", 2, "expert = 2", tensor=2),
    "P2 of mixed layers": case("mixed to mixed", 2, "pipeline = 2"),
    "E2 P2 of mixed layers": case("mixed to mixed", 4, "expert = 2", "pipeline = 2"),
    "E2 P2 V2 of mixed layers": case("mixed to mixed", 4, *VIRTUAL, "expert = 2", **REPLICATED),
    "block recompute of mixed layers": case("mixed to mixed", 2, "expert = 2", recompute=BLOCK),
    "E2 of a teacher with T2 of mixed layers": case(
        "mixed to mixed", 2, "expert = 2", teacher="tensor = 2\nexpert_tensor = 2"
    ),
}
WITH_THE_GRID = {
    "micro-batches of one row",
    "uniform recompute",
    "block recompute",
    "recomputed core attention",
    "T2 of a tied student",
    "P2 of a tied student",
    "P2 with a replicated optimizer",
    "P2",
    "P2 with uniform recompute",
    "P2 V2",
    "T2 P2 of a tied student",
    "T2 P2 V2",
    "T2 of a teacher with C2 and logits",
    "T2 C2 from the likeliest ids",
    "E2 with a replicated optimizer",
    "E2 ET2 T2",
    "E2 D4",
    "mixed layers on one process",
    "E2 of mixed layers",
    "P2 of mixed layers",
    "E2 P2 V2 of mixed layers",
    "block recompute of mixed layers",
    "E2 of a teacher with T2 of mixed layers",
}
"""What the other layouts show too, of another pair or beside another axis."""
