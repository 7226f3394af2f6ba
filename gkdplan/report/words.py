"""A run plan's decisions as the sentences that the outline and the page share."""

from collections.abc import Sequence
from itertools import groupby

from gkdplan.projections import PROJECTIONS
from gkdplan.runplan.layout import AxisDegrees, Layout
from gkdplan.runplan.mixing import rows_of_files
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.models import Freeze, LoraPlan, ModelPlan, Recompute, TeacherServer
from gkdplan.runplan.schedule import OffloadChoice
from gkdplan.units import format_bytes, format_count, format_seconds
from gkdplan.vocab import Kernels, Tier


def plural(count: int, noun: str, ending: str = "s") -> str:
    """A count with its noun: 1 step, 1,024 steps."""
    return f"{count:,} {noun}{'' if count == 1 else ending}"


def short_name(model: ModelPlan) -> str:
    """The last part of a directory or hub id, with the revision."""
    name = model.model.rstrip("/").rpartition("/")[2]
    return f"{name}@{model.revision}" if model.revision else name


def devices(layout: Layout) -> str:
    """The ranks' devices: 2 x h100-80gb, 4 nodes x 8 x h100-80gb."""
    on_a_node = f"{layout.devices_per_node} x {layout.device}"
    return on_a_node if layout.num_nodes == 1 else f"{layout.num_nodes} nodes x {on_a_node}"


def degrees(axes: AxisDegrees) -> str:
    """A mesh by its axes: tensor 2 + sequence, pipeline 4 x 2 virtual, context 2, data 4.

    Axes of degree 1 are left out but tensor and data; those of the experts are their own mesh.
    """
    virtual = f" x {axes.virtual_pipeline} virtual" if axes.virtual_pipeline > 1 else ""
    dense = [
        f"tensor {axes.tensor}{' + sequence' if axes.sequence else ''}",
        f"pipeline {axes.pipeline}{virtual}" if axes.pipeline > 1 else "",
        f"context {axes.context}" if axes.context > 1 else "",
        f"data {axes.data}",
    ]
    mesh = ", ".join(filter(None, dense))
    if axes.expert == axes.expert_tensor == 1:
        return mesh
    experts = f"expert {axes.expert}, expert tensor {axes.expert_tensor}"
    return f"{mesh}; of its experts {experts}, expert data {axes.expert_data}"


def layout(run_plan: RunPlan) -> str:
    """The meshes of both models, once where they are the same."""
    chosen = run_plan.layout
    ranks = plural(chosen.world_size, "rank") + _kernels(chosen)
    student, teacher = degrees(chosen.student), degrees(chosen.teacher)
    if run_plan.models.teacher.server is not None:
        return f"{ranks}: {student}, for the student"
    if student == teacher:
        return f"{ranks}: {student}, for both models"
    return f"{ranks}: student {student}; teacher {teacher}"


def _kernels(layout: Layout) -> str:
    """Of GPUs, which have two kinds."""
    if layout.backend == "gloo":
        return ""
    owner = "Transformer Engine" if layout.kernels is Kernels.TRANSFORMER_ENGINE else "torch"
    return f" on {owner}'s kernels"


def stages(student: ModelPlan, teacher: ModelPlan) -> str:
    """The layers of each model's pipeline stages, where one of them has several."""
    if teacher.server is not None:
        return layers_of_stages(student)
    return f"student {layers_of_stages(student)}; teacher {layers_of_stages(teacher)}"


def layers_of_stages(model: ModelPlan) -> str:
    """36 layers as 4 x 9; 30 layers as 7 + 2 x 8 + 7; 32 layers as 4 x 8, each in 2 chunks."""
    counts = [sum(chunks) for chunks in model.stage_layers]
    runs = [(len(list(run)), num) for num, run in groupby(counts)]
    stages = " + ".join(f"{times} x {num}" if times > 1 else str(num) for times, num in runs)
    num_chunks = len(model.stage_layers[0])
    chunks = f", each in {num_chunks} chunks" if num_chunks > 1 else ""
    return f"{plural(sum(counts), 'layer')} as {stages}{chunks}"


def parts_that_learn(freeze: Freeze, lora: LoraPlan | None) -> str:
    """Of a model that sees: "tower, projector, decoder", or its adapters."""
    decoder = "decoder" if lora is None else "adapters of the decoder"
    parts = {"tower": freeze.vision, "projector": freeze.projector, decoder: freeze.language}
    return ", ".join(part for part, is_frozen in parts.items() if not is_frozen) or "nothing"


def recompute(chosen: Recompute) -> str:
    """What the student's backward computes again."""
    if chosen.granularity == "selective":
        return f"selective: {', '.join(chosen.modules)}"
    if chosen.granularity == "full":
        layers = plural(chosen.num_layers or 0, "layer")
        unit = (
            f"{layers} a unit" if chosen.method == "uniform" else f"the first {layers} of a chunk"
        )
        return f"full, {chosen.method}: {unit}"
    return "none"


def lora(chosen: LoraPlan, rest: str) -> str:
    """What is trained beside the frozen weights."""
    is_all = all(map(chosen.target_of, PROJECTIONS))
    what = "every projection" if is_all else ", ".join(chosen.targets)
    dropped = f", dropout {chosen.dropout:g}" if chosen.dropout else ""
    return (
        f"{format_count(chosen.num_parameters)} trained: rank {chosen.rank}, alpha"
        f" {chosen.alpha:g}{dropped}, on {what}; {rest} is frozen"
    )


def origin_of_student(student: ModelPlan) -> str:
    """What the student's parameters start from."""
    if student.keep_layers is not None:
        kept = " ".join(map(str, student.keep_layers))
        return f"made of {len(student.keep_layers)} of the checkpoint's layers: {kept}"
    return {"pretrained": "pretrained", "random": "random weights"}[student.init]


def rest_of_student(student: ModelPlan) -> str:
    """What is off the device while nothing reads it."""
    if student.idle_params is Tier.HOST:
        return "; its weights on the host and its gradients dropped while nothing reads them"
    if student.idle_grads is Tier.DROPPED:
        return "; its gradients dropped between an update and the next forward"
    return ""


def average(decay: float) -> str:
    """What an exponential moving average becomes in an update."""
    return f"{decay:g} of itself and {1 - decay:g} of the student"


def residence_of_teacher(teacher: ModelPlan) -> str:
    averaged = "the student's average, " if teacher.ema_decay is not None else ""
    return f"{averaged}{_residence(teacher)}"


def _residence(teacher: ModelPlan) -> str:
    if teacher.server is not None:
        return f"behind {addresses(teacher.server)}"
    if teacher.is_students_base:
        return "the student's frozen base, its adapters off"
    if teacher.stream:
        return "on the host, streamed layer by layer"
    return "on the host between uses" if teacher.offload is Tier.HOST else "stays on the device"


def addresses(server: TeacherServer) -> str:
    """One address, or which value of the column has which."""
    if server.column is None:
        return server.urls[0]
    of_values = ", ".join(f"{a.value} at {a.url}" for a in server.addresses)
    return f"servers, by `{server.column}`: {of_values}"


def offload(choices: Sequence[OffloadChoice]) -> str:
    """What an offload of "auto" could be, each with its cost; what was chosen says itself."""
    return f"auto, of {'; '.join(map(_choice, choices))}"


def _choice(choice: OffloadChoice) -> str:
    what = " and ".join(choice.offloaded) or "nothing"
    peak, seconds = format_bytes(choice.peak_bytes), format_seconds(choice.exposed_s)
    return f"{what} ({choice.verdict} at {peak}, {seconds} exposed a step)"


def data(run_plan: RunPlan) -> str:
    train = sum(source.num_rows for source in run_plan.data.train)
    held_out = sum(source.num_rows for source in run_plan.data.eval)
    longer = {
        "delete": "longer ones are left out",
        "left": "longer ones lose their beginning",
        "right": "longer ones lose their end",
        "error": "a longer one stops the run",
    }[run_plan.data.truncation]
    length = plural(run_plan.data.max_length, "token")
    order = "shuffled in each epoch" if run_plan.data.shuffle else "in the files' order"
    rows = f"{plural(train, 'row')} {order}{_mix(run_plan)}, {held_out:,} held out"
    return f"{rows}; prompts up to {length}, {longer}{_bad_rows(run_plan)}{_hosts(run_plan)}"


def _mix(run_plan: RunPlan) -> str:
    """What an epoch holds of each file, where weights decide it."""
    data, num_rows = run_plan.data, run_plan.batch.global_rows
    if data.weights is None:
        return ""
    num_taken = sum(source.num_rows for source in data.train) // num_rows * num_rows
    of_files = zip(rows_of_files(data.weights, num_taken), data.train, strict=False)
    return f" ({', '.join(f'{taken:,} of {source.path}' for taken, source in of_files)})"


def _hosts(run_plan: RunPlan) -> str:
    """From where images are fetched."""
    pictures = run_plan.data.pictures
    if pictures is None or not pictures.hosts:
        return ""
    return f"; images are fetched from {', '.join(pictures.hosts)}"


def _bad_rows(run_plan: RunPlan) -> str:
    limit = run_plan.data.max_bad_rows
    return f"; up to {plural(limit, 'bad row')} of a file may be left out" if limit else ""


def batch(run_plan: RunPlan) -> str:
    sizes = run_plan.batch
    micro_batches = plural(sizes.num_micro_batches, "micro-batch", "es")
    rows = f"{plural(sizes.micro_rows, 'row')} x data {run_plan.layout.student.data}"
    return f"{plural(sizes.global_rows, 'row')} = {micro_batches} x {rows}"


def optimizer(run_plan: RunPlan) -> str:
    chosen = run_plan.optimizer
    to_min = "" if chosen.schedule == "constant" else f" -> {chosen.min_lr:g}"
    state = "spread over data ranks" if chosen.distributed else "whole on each data rank"
    if chosen.offload is Tier.HOST:
        state += ", on the host between updates"
    return (
        f"{chosen.name}, lr {chosen.lr:g}{to_min} {chosen.schedule},"
        f" {plural(chosen.warmup_steps, 'warmup step')}; weight decay {chosen.weight_decay:g},"
        f" betas {chosen.betas[0]:g} and {chosen.betas[1]:g}, eps {chosen.eps:g}; state {state}"
    )


def training(run_plan: RunPlan) -> str:
    chosen = run_plan.training
    logs = " and ".join(("metrics.jsonl", *dict.fromkeys(chosen.loggers)))
    steps = plural(chosen.num_steps, "step")
    return f"{steps}, seed {chosen.seed}, into {chosen.output}, with {logs}"
