"""One rank's share of a model: what every byte count of this room starts from."""

from dataclasses import dataclass, replace
from functools import lru_cache

from gkdplan.planner.memory.adapters import with_adapters
from gkdplan.planner.memory.experts import ExpertShare, expert_share
from gkdplan.planner.memory.fused import Fused
from gkdplan.planner.memory.parameters import VISION, Parameter, parameters_of_chunk
from gkdplan.planner.memory.stage import Chunk, Stage
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.models import NO_RECOMPUTE, LoraPlan, ModelPlan, Recompute
from gkdplan.shape import ModelShape
from gkdplan.vocab import Dtype


@dataclass(frozen=True, slots=True)
class RankModel:
    """Sizes of one tensor rank's shard of a pipeline stage."""

    shape: ModelShape
    dtype: Dtype
    padded_vocab_size: int
    tensor: int
    sequence: bool
    fused: Fused
    stage: Stage
    lora: LoraPlan | None = None
    recompute: Recompute = NO_RECOMPUTE
    experts: ExpertShare | None = None
    trains_language: bool = True
    trains_tower: bool = False
    trains_projector: bool = False
    balances_load: bool = False

    @property
    def chunks(self) -> tuple[tuple[Parameter, ...], ...]:
        """The parameters of each of the stage's chunks."""
        base = chunks_of_stage(
            self.shape, self.padded_vocab_size, self.tensor, self.stage, self.experts
        )
        if self.shape.vision is not None:
            base = tuple(tuple(map(self._as_it_learns, chunk)) for chunk in base)
        if self.lora is None:
            return base
        return tuple(
            with_adapters(chunk, self.shape, self.lora, self.tensor, self.experts) for chunk in base
        )

    @property
    def kinds(self) -> tuple["RankModel", ...]:
        """The model as its layers with experts have it, and as those without have it; itself where
        all layers of the stage are alike."""
        if not self.stage.is_mixed:
            return (self,)
        alike = replace(self, stage=replace(self.stage, dense_layers=()))
        return alike, replace(alike, shape=self.shape.without_experts, experts=None)

    @property
    def last_layers(self) -> tuple[tuple["RankModel", int], ...]:
        """Each kind with the number, in its chunk, of its last layer."""
        if not self.stage.is_mixed:
            return ((self, max(self.stage.chunk_layers) - 1),)
        chunks = self.stage.chunks
        last_dense = max(layer for chunk in chunks for layer in chunk.dense_layers)
        last = max(
            layer
            for chunk in chunks
            for layer in range(chunk.num_layers)
            if layer not in chunk.dense_layers
        )
        return tuple(zip(self.kinds, (last, last_dense), strict=True))

    def layers(self, chunk: Chunk, first: int = 0) -> tuple[tuple[int, "RankModel"], ...]:
        """How many layers of a chunk, from one on, are of each kind."""
        numbers = chunk.num_with_experts(first), chunk.num_dense(first)
        return tuple(zip(numbers, self.kinds, strict=False))

    @property
    def whole_chunks(self) -> tuple[tuple[Parameter, ...], ...]:
        """Of the stage's chunks the parameters as a file has them: not cut, without adapters."""
        experts = None if self.experts is None else ExpertShare(self.experts.moe)
        return chunks_of_stage(self.shape, self.padded_vocab_size, 1, self.stage, experts)

    @property
    def trained_chunks(self) -> tuple[tuple[Parameter, ...], ...]:
        """Of each chunk what has a gradient."""
        return tuple(tuple(p for p in chunk if p.is_trained) for chunk in self.chunks)

    @property
    def frozen_bytes(self) -> int:
        """Of the parameters that have no gradient."""
        frozen = (p for chunk in self.chunks for p in chunk if not p.is_trained)
        return sum(parameter.num_bytes(self.dtype) for parameter in frozen)

    @property
    def trains_base(self) -> bool:
        """Whether the decoder's own weights have gradients, not only adapters or eyes."""
        return self.trains_language and self.lora is None

    def keeps_input_of(self, *projections: str) -> bool:
        """Whether the gradient of a weight needs what these projections multiply: their own, or
        that of an adapter's A, which with dropout multiplies a copy."""
        if self.lora is None:
            return self.trains_language
        is_adapted = any(self.lora.target_of(projection) for projection in projections)
        return self.lora.dropout == 0.0 and is_adapted

    @property
    def has_float32_scales(self) -> bool:
        """Whether norms work in float32 with 1 + weight; Transformer Engine's kernel adds the 1."""
        return self.shape.zero_centered_norms and not self.fused.norm_in_projection

    @property
    def vocab_rows(self) -> int:
        """Rows of the embedding and of the output head on this rank."""
        return self.padded_vocab_size // self.tensor

    @property
    def head_elements(self) -> int:
        return self.vocab_rows * self.shape.hidden_size

    @property
    def query_size(self) -> int:
        return self.shape.query_size // self.tensor

    @property
    def num_kv_heads(self) -> int:
        """Kv heads that a rank computes with; fewer heads than ranks are shared by ranks."""
        return max(1, self.shape.num_kv_heads // self.tensor)

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.shape.head_dim

    @property
    def qkv_size(self) -> int:
        """Width of the fused projection that a rank holds: all of it where ranks share kv heads
        (megatron/core/transformer/attention.py gathers it)."""
        whole = self.shape.query_size + 2 * self.shape.kv_size
        return whole if self.shape.num_kv_heads < self.tensor else whole // self.tensor

    @property
    def rotated_size(self) -> int:
        """Coordinates of a head that turn with their position."""
        return self.shape.rotated_size

    @property
    def ffn_size(self) -> int:
        return self.shape.ffn_hidden_size // self.tensor

    @property
    def sequence_shards(self) -> int:
        """Over how many ranks the tokens between the tensor-parallel regions are divided."""
        return self.tensor if self.sequence else 1

    def _as_it_learns(self, parameter: Parameter) -> Parameter:
        """Of a model that sees."""
        vision, name = self.shape.vision, parameter.name.removeprefix(VISION)
        assert vision is not None, "all of a text model learns, or its adapters do"
        if name == parameter.name:
            is_trained = self.trains_language
        elif name.startswith(vision.projector):
            is_trained = self.trains_projector
        else:
            is_trained = self.trains_tower and vision.is_read(name)
        return replace(parameter, is_trained=is_trained)


@lru_cache(maxsize=1024)
def chunks_of_stage(
    shape: ModelShape,
    padded_vocab_size: int,
    tensor: int,
    stage: Stage,
    experts: ExpertShare | None = None,
) -> tuple[tuple[Parameter, ...], ...]:
    """The parameters of each of the stage's chunks on one tensor rank."""
    last_chunk = stage.num_chunks - 1
    return tuple(
        parameters_of_chunk(
            shape,
            padded_vocab_size,
            tensor,
            layers.num_layers,
            experts=experts,
            dense_layers=layers.dense_layers,
            is_first=stage.is_first and chunk == 0,
            is_last=stage.is_last and chunk == last_chunk,
        )
        for chunk, layers in enumerate(stage.chunks)
    )


def rank_model(model: ModelPlan, degrees: AxisDegrees, fused: Fused, stage: int) -> RankModel:
    """The share of a rank of pipeline stage `stage`; of a stage whose layers are all dense it is
    that of a model without experts."""
    dense = _dense_layers(model, stage)
    num_dense, num_layers = sum(map(len, dense)), sum(model.stage_layers[stage])
    is_dense = num_dense == num_layers
    shape = model.shape.without_experts if is_dense else model.shape
    return RankModel(
        shape=shape,
        dtype=model.dtype,
        padded_vocab_size=model.padded_vocab_size,
        tensor=degrees.tensor,
        sequence=degrees.sequence,
        fused=fused,
        stage=Stage(
            stage,
            degrees.pipeline,
            model.stage_layers[stage],
            dense if 0 < num_dense < num_layers else (),
        ),
        lora=model.lora,
        recompute=model.recompute,
        experts=expert_share(shape, degrees),
        trains_language=model.freeze is None or not model.freeze.language,
        trains_tower=model.freeze is not None and not model.freeze.vision,
        trains_projector=model.freeze is not None and not model.freeze.projector,
        balances_load=model.load_balance is not None,
    )


def _dense_layers(model: ModelPlan, stage: int) -> tuple[tuple[int, ...], ...]:
    """Of each chunk of the stage, counted from its first layer."""
    built = model.shape
    return tuple(
        tuple(place for place, layer in enumerate(layers) if built.experts_of(layer) is None)
        for layers in model.layers_of_stage(stage)
    )
