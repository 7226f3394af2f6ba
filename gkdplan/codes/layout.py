"""Layout: how tensors divide over ranks."""

from gkdplan.codes.code import Code

CODES: dict[str, Code] = {
    "GK201": Code(
        "ranks that do not divide into tensor groups",
        "Every rank belongs to exactly one tensor group, so the degree divides their number.",
        "Set `parallel.tensor` to a divisor of num_nodes x devices_per_node.",
    ),
    "GK202": Code(
        "attention heads that a tensor degree does not divide",
        "Megatron gives every rank of a tensor group the same number of whole heads.",
        "Set `parallel.tensor` to one of the degrees shown.",
    ),
    "GK203": Code(
        "kv heads that a tensor degree does not divide",
        "A rank owns whole kv heads; ranks may share one only if each head has as many ranks.",
        "Set `parallel.tensor` to one of the degrees shown.",
    ),
    "GK204": Code(
        "an ffn width that a tensor degree does not divide",
        "Megatron cuts the gated MLP into equal shares.",
        "Set `parallel.tensor` to one of the degrees shown.",
    ),
    "GK205": Code(
        "sequence parallelism without a tensor axis",
        "It divides tokens over the tensor axis; with one rank there is nothing to divide.",
        "Remove `sequence`, or raise `tensor`; left out, it follows the tensor axis.",
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
}
