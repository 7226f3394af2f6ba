"""Student and teacher of a run plan."""

from dataclasses import dataclass
from itertools import accumulate

from gkdplan.projections import parts_of
from gkdplan.shape import ModelShape
from gkdplan.vocab import Dtype, Tier


@dataclass(frozen=True, slots=True)
class Recompute:
    """Activations made again in the backward: of `modules` where `granularity` is "selective"; of
    `num_layers` layers a unit ("uniform") or of the first `num_layers` of each chunk ("block")
    where it is "full"."""

    granularity: str = "none"
    method: str | None = None
    num_layers: int | None = None
    modules: tuple[str, ...] = ()


NO_RECOMPUTE = Recompute()


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """Low-rank adapters (Hu et al., arXiv 2106.09685) beside the frozen projections `targets`, each
    with an A [rank, in] and a B [out, rank] of its own: y = W x + alpha / rank B A dropout(x).

    `targets` are some of the family's projections, in the order of a layer; `num_parameters` counts
    the whole model's adapters.
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]
    num_parameters: int

    def target_of(self, projection: str) -> str | None:
        """The target that adapts one of `shape.PROJECTIONS`: itself, or the matrix it lies in."""
        return next((t for t in self.targets if projection in parts_of(t)), None)


@dataclass(frozen=True, slots=True)
class LoadBalance:
    """A loss that is least where every expert of a layer gets an equal share of the tokens (Fedus
    et al., arXiv 2101.03961, equations 4 to 6). `coefficient` times it is added to the objective:
    summed over layers, the mean over the `num_micro_batches` of the global batch."""

    coefficient: float
    num_micro_batches: int


@dataclass(frozen=True, slots=True)
class Freeze:
    """What stays as it is of a vision-language model that learns."""

    vision: bool
    projector: bool
    language: bool = False


@dataclass(frozen=True, slots=True)
class TeacherAddress:
    """Where the teacher of the rows is that have `value` in their column; None stands for all."""

    value: str | None
    url: str


@dataclass(frozen=True, slots=True)
class TeacherServer:
    """A teacher behind a server, or several with one vocabulary, among which the `column` of a row
    chooses. One that stopped answering has `patience_s` seconds to come back."""

    addresses: tuple[TeacherAddress, ...]
    column: str | None
    patience_s: float

    @property
    def urls(self) -> tuple[str, ...]:
        """Each once."""
        return tuple(dict.fromkeys(address.url for address in self.addresses))

    @property
    def values(self) -> tuple[str, ...]:
        """What the column may hold; nothing where there is none."""
        return tuple(a.value for a in self.addresses if a.value is not None)


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """One of the two models.

    `keep_layers` are indices of the checkpoint's layers, in order, of which `shape` is made.
    `stage_layers` counts the layers of each pipeline stage, chunk by chunk: chunk c of stage i
    comes c * pipeline + i-th in the model (one chunk a stage but for virtual pipelines). `prefetch`
    is what the plan asks of the weights' way to the device; the schedule says what became of it.
    With `stream` they come layer by layer, in every forward anew. A teacher that `is_students_base`
    has no weights of its own: it is the student without its adapters. A teacher with a `server` is
    asked there: no rank has a layer of it. One with an `ema_decay` d becomes, in every update, d of
    itself and 1 - d of the student. `freeze` is of a student that sees images.
    `idle_params` and `idle_grads` are where a student's parameters and gradients are while nothing
    reads them.
    """

    model: str
    revision: str | None
    family: str
    num_parameters: int
    shape: ModelShape
    dtype: Dtype
    padded_vocab_size: int
    init: str
    keep_layers: tuple[int, ...] | None
    offload: Tier
    stage_layers: tuple[tuple[int, ...], ...]
    recompute: Recompute = NO_RECOMPUTE
    lora: LoraPlan | None = None
    load_balance: LoadBalance | None = None
    freeze: Freeze | None = None
    prefetch: bool | None = None
    stream: bool = False
    is_students_base: bool = False
    server: TeacherServer | None = None
    ema_decay: float | None = None
    idle_params: Tier = Tier.DEVICE
    idle_grads: Tier = Tier.DEVICE

    @property
    def learning_eyes(self) -> tuple[str, ...]:
        """How the names of tensors begin that are of a tower or projector that learns; of a tower
        with what is inside of it."""
        vision, freeze = self.shape.vision, self.freeze
        if vision is None or freeze is None:
            return ()
        projector = () if freeze.projector else vision.projector
        if freeze.vision:
            return projector
        tower = vision.prefixes[0]
        return (tower, *(part for part in projector if not part.startswith(tower)))

    def layers_of_stage(self, stage: int) -> tuple[range, ...]:
        """The model's numbers of the layers of each of its chunks."""
        of_chunks = [num for of_stages in zip(*self.stage_layers, strict=True) for num in of_stages]
        starts = [0, *accumulate(of_chunks)]
        places = range(stage, len(of_chunks), len(self.stage_layers))
        return tuple(range(starts[place], starts[place + 1]) for place in places)


@dataclass(frozen=True, slots=True)
class Models:
    """Both models, and the one vocabulary of the loss."""

    student: ModelPlan
    teacher: ModelPlan
    vocab_size: int
    """The true vocabulary that the loss normalises over: neither padding nor unused rows."""
