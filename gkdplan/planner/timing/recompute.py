"""What of a forward the backward makes again."""

from gkdplan.planner.timing.flops import active_elements, active_mlp_elements, mean_of_layers
from gkdplan.planner.timing.stage import Stage
from gkdplan.runplan.models import Recompute
from gkdplan.shape import ModelShape


def recomputed_share(recompute: Recompute, stage: Stage) -> float:
    """Of a stage's forward that the backward makes again; selective modules are counted as the
    attention of scores and values, or as the MLP, by their FLOPs."""
    if recompute.granularity == "full":
        if recompute.method == "uniform" or recompute.num_layers is None:
            return 1.0
        return min(1.0, recompute.num_layers * stage.degrees.virtual_pipeline / stage.num_layers)
    if recompute.granularity == "selective":
        return _selective_share(recompute, stage)
    return 0.0


def _selective_share(recompute: Recompute, stage: Stage) -> float:
    shape = stage.model.shape
    attention = (shape.query_size + shape.context_size) * stage.tokens_of_row
    modules = recompute.modules or ("core_attn",)

    def mlp_again(kind: ModelShape) -> int:
        module = "mlp" if kind.moe is None else "moe"
        return 2 * active_mlp_elements(kind) if module in modules else 0

    again = attention * ("core_attn" in modules) + mean_of_layers(shape, mlp_again)
    return again / (attention + 2 * active_elements(shape))
