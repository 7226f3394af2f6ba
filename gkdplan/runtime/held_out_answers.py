"""What the student answers to held-out prompts, beside what the dataset says."""

from dataclasses import replace
from itertools import cycle, islice

from gkdplan.runtime.responses import of_all_ranks, sample_responses
from gkdplan.runtime.session import Session
from gkdplan.vocab import Role


def answer_held_out(session: Session, step: int, num_prompts: int) -> None:
    """Log the likeliest response of the student as it is after `step` to each of the first held-out
    prompts, by Megatron's own modules; collective over all ranks.

    Prompts are repeated until every rank of the data axis has as many.
    """
    examples = session.held_out.examples[:num_prompts]
    num_shares = session.plan.layout.student.data
    num_rows = -(-len(examples) // num_shares) * num_shares
    mine = list(islice(cycle(examples), num_rows))[session.mesh.data_rank :: num_shares]
    greedy = replace(session.plan.sampling, temperature=0.0)
    sampled = sample_responses(session, Role.STUDENT, mine, greedy, step)
    pairs = zip(mine, sampled, strict=True)
    responses = of_all_ranks({example.row: response for example, response in pairs})
    for example in examples:
        session.metrics.log_answer(
            step=step,
            row=example.row,
            question=example.question,
            expected=session.chat.decode(example.response or ()),
            answer=session.chat.decode(responses[example.row]),
            num_tokens=len(responses[example.row]),
        )
