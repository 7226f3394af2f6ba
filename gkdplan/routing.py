"""How a router scores experts and chooses those of a token."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Routing:
    """`score` is "softmax" over all experts or "sigmoid" of each. With `has_choice_bias` every
    expert has a number that is added to its score where experts are chosen, and only there.

    A token's experts lie in `num_groups_per_token` of `num_groups` groups of neighbours, those
    whose `num_scoring_group` best experts have the largest sum of what they are chosen by
    (DeepSeek-AI, arXiv 2405.04434, section 2.2.2, and arXiv 2412.19437, section 2.1.2). Weights are
    multiplied by `scale`.
    """

    score: str = "softmax"
    has_choice_bias: bool = False
    num_groups: int = 1
    num_groups_per_token: int = 1
    num_scoring_group: int = 1
    scale: float = 1.0


PLAIN_ROUTING = Routing()
