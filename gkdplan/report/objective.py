"""The objective card: exactly what a plan's loss is, in the terms of its neighbours too."""

from gkdplan.report.words import plural
from gkdplan.report.wrapping import wrap
from gkdplan.runplan.draw import share_of_sources, steps_per_source
from gkdplan.runplan.model import Objective, RunPlan
from gkdplan.runplan.sampling import Sampling
from gkdplan.runplan.steps import Draw, Generate
from gkdplan.units import format_bytes
from gkdplan.vocab import Engine, LossBackend, Payload, Role, Source

SOURCE_NAMES = {
    Source.STUDENT: "student's samples",
    Source.TEACHER: "teacher's samples",
    Source.DATASET: "dataset responses",
}

LEGEND = "of a response token: t is the teacher's distribution, s the student's"

_LABEL_WIDTH = 13
_MOST_COUNTED_STEPS = 100_000


def objective_card(run_plan: RunPlan, width: int = 80) -> str:
    """The card in plain text; no line is wider than `width`."""
    rows = (wrap(label.ljust(_LABEL_WIDTH), text, width) for label, text in card_rows(run_plan))
    return "\n".join([wrap("objective ", LEGEND, width), *rows])


def card_rows(run_plan: RunPlan) -> list[tuple[str, str]]:
    """(label, sentence) of everything that says what is learnt."""
    objective = run_plan.objective
    return [
        ("loss", loss_formula(objective)),
        *_sft(objective),
        *_load_balance(run_plan),
        ("beta", meaning_of_beta(objective.beta)),
        ("elsewhere", _elsewhere(objective)),
        ("vocabulary", vocabulary(run_plan)),
        ("top-k", top_k_treatment(run_plan)),
        ("temperature", temperatures(run_plan)),
        ("mean", "over the response tokens of the global batch, on all ranks together"),
        ("source", sources(run_plan)),
        ("sampling", sampling(run_plan)),
        ("payload", payload(run_plan)),
    ]


def loss_formula(objective: Objective) -> str:
    """The divergence of a token; t, s are the teacher's and the student's distributions.

    Between the ends of beta it is the generalized Jensen-Shannon divergence of Agarwal et al.,
    "On-Policy Distillation of Language Models" (2024), equation 1; the ends are forward and
    reverse KL.
    """
    beta = objective.beta
    if beta == 0:
        return "KL(t||s), forward KL"
    if beta == 1:
        return "KL(s||t), reverse KL"
    b, c = f"{beta:g}", f"{1 - beta:g}"
    return f"{b} KL(t||m) + {c} KL(s||m), m = {b} t + {c} s"


def _sft(objective: Objective) -> list[tuple[str, str]]:
    """The added cross-entropy, where there is one."""
    if objective.sft_alpha == 0:
        return []
    added = f"{objective.sft_alpha:g} x the label's -log s, s at temperature 1"
    return [("sft", f"{added}, is added in steps on dataset responses")]


def _load_balance(run_plan: RunPlan) -> list[tuple[str, str]]:
    """The loss of the student's routers, where there is one."""
    balance = run_plan.models.student.load_balance
    if balance is None:
        return []
    loss = "E sum f P over its experts, 1 where their load is equal"
    return [("load", f"{balance.coefficient:g} x each layer's {loss}, is added")]


def meaning_of_beta(beta: float) -> str:
    """What beta weighs; its ends are definitions, no limits: the divergence between tends to 0."""
    if beta == 0:
        return "0, by definition forward KL; from between the ends the loss tends to 0"
    if beta == 1:
        return "1, by definition reverse KL; from between the ends the loss tends to 0"
    return f"{beta:g}, the weight of t in m; 0 is KL(t||s), 1 is KL(s||t)"


def translations(beta: float) -> str:
    """The same divergence in TRL's GKDTrainer, ms-swift and KDFlow: docs/objective.md."""
    kdflow = {0.0: "kl", 1.0: "rkl"}.get(beta, f"jsd, jsd_beta {1 - beta:g}")
    return f"TRL beta {beta:g}; ms-swift beta {beta:g}; KDFlow {kdflow}"


def _elsewhere(objective: Objective) -> str:
    """Of likeliest ids with a tail there is no setting that means the same."""
    if objective.top_k is None:
        return translations(objective.beta)
    return "no setting of TRL's GKDTrainer, ms-swift or KDFlow has a tail: docs/objective.md"


def vocabulary(run_plan: RunPlan) -> str:
    """The true vocabulary, and the padded one that the tensor axis asks for."""
    true, padded = run_plan.models.vocab_size, run_plan.models.student.padded_vocab_size
    on_a_rank = padded // run_plan.layout.student.tensor
    return f"{true:,} ids are normalised over; padded to {padded:,}, {on_a_rank:,} a rank"


def top_k_treatment(run_plan: RunPlan) -> str:
    """Which ids of the teacher's distribution the loss sees."""
    num_ids, top_k = run_plan.models.vocab_size, run_plan.objective.top_k
    if top_k is None:
        return f"none: the sums go over all {num_ids:,} ids of both models"
    return (
        f"t and s are over {top_k:,} ids, the teacher's likeliest of a token, and a tail, the "
        f"other {num_ids - top_k:,} as one: never more than over all ids"
    )


def temperatures(run_plan: RunPlan) -> str:
    """Both temperatures; what sampling shares with the loss it shares by the plan's choice."""
    loss = f"loss {run_plan.objective.loss_temperature:g}, on both models' logits, no factor T^2"
    if run_plan.sampling.engine is Engine.NONE:
        return loss
    return f"{loss}; sampling {run_plan.sampling.temperature:g}"


def payload(run_plan: RunPlan) -> str:
    """What of the teacher is kept for the loss, its bytes, and those of what says no less."""
    objective = run_plan.objective
    kept, size = _payload_of(objective.payload, run_plan)
    other = Payload.LOGITS if objective.payload is Payload.HIDDEN else Payload.HIDDEN
    instead, other_size = _payload_of(other, run_plan)
    tokens = plural(objective.chunk_tokens, "response token")
    is_eager = objective.loss_backend is LossBackend.EAGER
    by = "" if is_eager else f", {objective.loss_backend}"
    if run_plan.models.teacher.server is not None:
        kept = f"{kept}, as its server gives them"
    return (
        f"the teacher's {kept}, {format_bytes(size)} a token (its {instead}: "
        f"{format_bytes(other_size)}); the loss works on {tokens} at a time{by}"
    )


def _payload_of(payload: Payload, run_plan: RunPlan) -> tuple[str, int]:
    """Its name, and its bytes of a token on a rank that has the loss."""
    teacher, tensor = run_plan.models.teacher, run_plan.layout.student.tensor
    width = teacher.dtype.num_bytes
    match payload:
        case Payload.HIDDEN:
            return "final hidden states", teacher.shape.hidden_size * width
        case Payload.LOGITS:
            return "logits", teacher.padded_vocab_size // tensor * width
        case Payload.TOP_K:
            top_k = run_plan.objective.top_k or 0
            return f"{top_k:,} likeliest ids", (top_k * 2 + 1) * 4


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
    """Whose responses are learnt from, with the effective lmbda and seq_kd."""
    objective = run_plan.objective
    names = dict(SOURCE_NAMES)
    if run_plan.data.samples is not None:
        names[Source.TEACHER] += f" from {run_plan.data.samples.path}"
    parts = [f"{names[source]} {share:.0%} ({steps})" for source, share, steps in mixture(run_plan)]
    return f"{', '.join(parts)}; effective lmbda {objective.lmbda:g}, seq_kd {objective.seq_kd:g}"


def sampling(run_plan: RunPlan) -> str:
    """How the models' own responses are drawn."""
    chosen = run_plan.sampling
    if chosen.engine is Engine.NONE:
        return "none: no engine"
    top_k = "" if chosen.top_k is None else f", top_k {chosen.top_k}"
    tokens = plural(chosen.max_completion_length, "token")
    return (
        f"{_engine(chosen)}{_of_teacher(run_plan)}, top_p {chosen.top_p:g}{top_k}, at most {tokens}"
    )


def _of_teacher(run_plan: RunPlan) -> str:
    """Where the teacher samples by something else than the student."""
    for step in run_plan.steps:
        if isinstance(step, Generate) and step.role is Role.TEACHER:
            if run_plan.models.teacher.server is not None:
                return "; the teacher behind its server"
            if step.engine is not run_plan.sampling.engine:
                return f"; the teacher by {step.engine}, from its weights on the ranks"
    return ""


def _engine(chosen: Sampling) -> str:
    if chosen.server_urls:
        return f"{chosen.engine} at {', '.join(chosen.server_urls)}"
    if chosen.vllm is None:
        return str(chosen.engine)
    sleep = f", sleep level {chosen.vllm.sleep_level}" if chosen.vllm.sleep_level else ""
    return (
        f"{chosen.engine} on tensor {chosen.vllm.tensor}, {chosen.vllm.gpu_memory_utilization:.0%} "
        f"of the device{sleep}, at most {plural(chosen.vllm.max_num_seqs, 'sequence')} at once"
    )
