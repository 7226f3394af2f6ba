"""Schedule and distillation."""

from gkdplan.codes.code import Code

CODES: dict[str, Code] = {
    "GK401": Code(
        "a teacher with other token ids",
        "The loss compares the two distributions id by id: an id must be one token on both sides.",
        "Take a teacher and a student with the same tokenizer.",
    ),
    "GK402": Code(
        "different end-of-text tokens",
        "Responses end with the student's, to which the teacher may give little probability.",
        "Align the `eos_token` of the two tokenizers, or accept the student's.",
    ),
    "GK403": Code(
        "different chat templates",
        "Both models read prompts rendered by the student's template; the teacher may not know it.",
        "Give the student the teacher's template, or accept the student's.",
    ),
    "GK404": Code(
        "rows of messages without a chat template",
        "The student's template decides how turns become text; there is no honest default.",
        "Write the rows as `prompt` and `completion`, or use a student with a chat template.",
    ),
    "GK405": Code(
        "a vocabulary that is not known",
        "The true number of tokens is the tokenizer's; without one the embedding's rows are taken.",
        "Place tokenizer.json beside config.json to have it checked.",
    ),
    "GK410": Code(
        "a beta close to an end but not at it",
        "The divergence vanishes towards 0 and 1, and so does the gradient; the ends are KL terms.",
        "Set beta to exactly 0 or 1, or away from them.",
    ),
    "GK411": Code(
        "sampling asked for without an engine",
        "Steps that should learn from samples would learn from the dataset instead.",
        'Set `generation.engine` to "megatron", or `lmbda` and `seq_kd` to 0.',
    ),
    "GK412": Code(
        "dataset steps on rows without a response",
        "Such a step has no tokens to learn from.",
        "Give the rows responses, or let every step learn from samples.",
    ),
    "GK413": Code(
        "evaluation rows without a response",
        "Held-out loss is measured on the dataset's responses.",
        "Give the rows responses, or leave the file out of `data.eval`.",
    ),
    "GK414": Code(
        "a temperature beyond what float32 can follow",
        "Logits over a tiny temperature overflow; over a huge one all tokens are alike.",
        "Take one from 0.01 to 100; a sampling temperature of exactly 0 takes the likeliest token.",
    ),
    "GK415": Code(
        "held-out rows that are trained on",
        "Held-out figures then tell how well rows were remembered, not what was learned.",
        "Name other rows in `data.eval`.",
    ),
    "GK416": Code(
        "a sleeping engine on a cpu",
        "Sleep gives memory of a GPU back; vllm refuses it elsewhere.",
        "Set `generation.sleep_level` to 0.",
    ),
    "GK417": Code(
        "more likeliest ids than the vocabulary has",
        "A teacher's distribution has one probability for each id, and no more of them to keep.",
        'Lower `distill.top_k`, or keep all of the distribution with `payload = "hidden"`.',
    ),
    "GK418": Code(
        "a teacher's server and a loss temperature other than 1",
        "vllm gives log-probabilities of a prompt at temperature 1, whatever the request says; of "
        "the likeliest ids alone those at another temperature do not follow.",
        "Set `distill.loss_temperature` to 1; `temperature` is then of sampling only.",
    ),
    "GK419": Code(
        "an address without a scheme or a host",
        "Nothing is guessed: a name alone may mean another machine or another port.",
        'Write the whole address: `url = "http://127.0.0.1:8000"`.',
    ),
    "GK420": Code(
        "a global batch that does not divide",
        "It is made of whole micro-batches on every data rank, of the student and of the teacher.",
        "Set `batch.global` to a multiple of micro x data ranks, as shown.",
        "megatron-core 0.16.1, megatron/core/num_microbatches_calculator.py",
    ),
    "GK421": Code(
        "fewer rows than one global batch",
        "An epoch is made of whole global batches, so it would have no step.",
        "Lower `batch.global` or add rows.",
    ),
    "GK422": Code(
        "rows left out of every epoch",
        "Only whole global batches are used; which rows are left changes with the shuffle.",
        "Nothing, or choose a `batch.global` that divides the rows.",
    ),
    "GK423": Code(
        "a warm-up as long as the run",
        "The rate would only rise, and reach its top when the run ends.",
        "Lower `warmup_fraction`.",
    ),
    "GK424": Code(
        "rows longer than a model's positions",
        "A model has not learnt positions past `max_position_embeddings`.",
        "Lower `data.max_length` or `generation.max_completion_length`.",
    ),
    "GK425": Code(
        "bf16 on a cpu",
        "Without bf16 instructions it is computed by way of fp32: slower, and less exact.",
        'Set `student.dtype`, and `teacher.dtype` where it is written, to "fp32" on a cpu.',
    ),
    "GK426": Code(
        "a streamed teacher that would sample",
        "One token takes a forward through all layers, and each would come from the host for it.",
        "Sample once with `gkdplan sample`, keep the teacher whole, or set `distill.seq_kd` to 0.",
    ),
    "GK427": Code(
        "a server that is named twice",
        "Each server has its own line of weights and its share of the prompts.",
        "Name each server of `generation.server_url` once.",
    ),
    "GK428": Code(
        "a teacher that agrees with its student",
        "It begins with the student's weights: the divergence and its gradient are zero there.",
        "Let something else move the student: `distill.sft_alpha` on the dataset's responses.",
    ),
    "GK430": Code(
        "a key without effect",
        "Something was asked for that nothing in this plan reads.",
        "Remove the key, or set what would make it count.",
    ),
}
