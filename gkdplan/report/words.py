"""A run plan's decisions as the sentences that the outline and the page share."""

from gkdplan.runplan.draw import share_of_sources, steps_per_source
from gkdplan.runplan.model import AxisDegrees, Layout, ModelPlan, Objective, RunPlan
from gkdplan.runplan.steps import Draw
from gkdplan.vocab import Engine, Payload, Source, Tier

SOURCE_NAMES = {
    Source.STUDENT: "student's samples",
    Source.TEACHER: "teacher's samples",
    Source.DATASET: "dataset responses",
}


_MOST_COUNTED_STEPS = 100_000


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
    """A mesh: tensor 2 + sequence, data 4."""
    return f"tensor {axes.tensor}{' + sequence' if axes.sequence else ''}, data {axes.data}"


def layout(chosen: Layout) -> str:
    """The meshes of both models, once where they are the same."""
    ranks = plural(chosen.world_size, "rank")
    student, teacher = degrees(chosen.student), degrees(chosen.teacher)
    if student == teacher:
        return f"{ranks}: {student}, for both models"
    return f"{ranks}: student {student}; teacher {teacher}"


def origin_of_student(student: ModelPlan) -> str:
    """What the student's parameters start from."""
    if student.keep_layers is not None:
        kept = " ".join(map(str, student.keep_layers))
        return f"made of {len(student.keep_layers)} of the checkpoint's layers: {kept}"
    return {"pretrained": "pretrained", "random": "random weights"}[student.init]


def residence_of_teacher(teacher: ModelPlan) -> str:
    return "on the host between uses" if teacher.offload is Tier.HOST else "stays on the device"


def vocabulary(run_plan: RunPlan) -> str:
    """The true vocabulary, and the padded one that the tensor axis asks for."""
    true, padded = run_plan.models.vocab_size, run_plan.models.student.padded_vocab_size
    on_a_rank = padded // run_plan.layout.student.tensor
    return f"{true:,} ids are normalised over; padded to {padded:,}, {on_a_rank:,} a rank"


def loss_formula(objective: Objective) -> str:
    """The divergence of a token; t, s are the teacher's and the student's distributions.

    Between the ends of beta it is the generalized Jensen-Shannon divergence of Agarwal et al.,
    "On-Policy Distillation of Language Models" (2024); the ends are forward and reverse KL.
    """
    beta = objective.beta
    if beta == 0:
        return "KL(t||s), forward KL"
    if beta == 1:
        return "KL(s||t), reverse KL"
    b, c = f"{beta:g}", f"{1 - beta:g}"
    return f"{b} KL(t||m) + {c} KL(s||m), m = {b} t + {c} s"


def normaliser(objective: Objective) -> str:
    return f"T {objective.loss_temperature:g}; mean of the global batch's response tokens"


def payload(objective: Objective) -> str:
    """What of the teacher is kept for the loss."""
    kept = "logits" if objective.payload is Payload.LOGITS else "final hidden states"
    tokens = plural(objective.chunk_tokens, "response token")
    return f"the teacher's {kept}; the loss works on {tokens} at a time"


def mixture(run_plan: RunPlan) -> list[tuple[Source, float, str]]:
    """(source, share, steps of this run that fall on it), for the sources that can occur.

    The steps are counted, as the draw is known ahead; of a very long run they are estimated.
    """
    objective, num_steps = run_plan.objective, run_plan.training.num_steps
    draw = Draw(run_plan.training.seed, objective.lmbda, objective.seq_kd)
    shares = [(source, share) for source, share in share_of_sources(draw).items() if share > 0]
    if num_steps > _MOST_COUNTED_STEPS:
        return [
            (s, share, f"about {plural(round(share * num_steps), 'step')}") for s, share in shares
        ]
    counts = steps_per_source(draw, num_steps)
    return [(source, share, plural(counts[source], "step")) for source, share in shares]


def sources(run_plan: RunPlan) -> str:
    objective = run_plan.objective
    parts = [
        f"{SOURCE_NAMES[source]} {share:.0%} ({steps})"
        for source, share, steps in mixture(run_plan)
    ]
    return f"{', '.join(parts)}; effective lmbda {objective.lmbda:g}, seq_kd {objective.seq_kd:g}"


def sampling(run_plan: RunPlan) -> str:
    chosen = run_plan.sampling
    if chosen.engine is Engine.NONE:
        return "none: no engine"
    top_k = "" if chosen.top_k is None else f", top_k {chosen.top_k}"
    tokens = plural(chosen.max_completion_length, "token")
    truncated = f"T {chosen.temperature:g}, top_p {chosen.top_p:g}{top_k}"
    return f"{chosen.engine}, {truncated}, at most {tokens}"


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
    rows = f"{plural(train, 'row')} {order}, {held_out:,} held out"
    return f"{rows}; prompts up to {length}, {longer}"


def batch(run_plan: RunPlan) -> str:
    sizes = run_plan.batch
    micro_batches = plural(sizes.num_micro_batches, "micro-batch", "es")
    rows = f"{plural(sizes.micro_rows, 'row')} x data {run_plan.layout.student.data}"
    return f"{plural(sizes.global_rows, 'row')} = {micro_batches} x {rows}"


def optimizer(run_plan: RunPlan) -> str:
    chosen = run_plan.optimizer
    to_min = "" if chosen.schedule == "constant" else f" -> {chosen.min_lr:g}"
    state = "spread over data ranks" if chosen.distributed else "whole on each data rank"
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
