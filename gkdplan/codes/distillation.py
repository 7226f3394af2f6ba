"""Schedule, distillation and data."""

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
    "GK460": Code(
        "a data file that cannot be read",
        "There is nothing to learn from.",
        "Name an existing file of rows, relative to the working directory.",
    ),
    "GK461": Code(
        "a bad number of rows",
        "What follows `#` says how many rows are taken, from the first one on.",
        "Write a whole number from 1 after `#`, or leave `#` out to take all rows.",
    ),
    "GK462": Code(
        "a data file without rows",
        "An epoch over no rows has no steps.",
        "Name a file that holds rows.",
    ),
    "GK463": Code(
        "a row that cannot be used",
        "Leaving it out in silence would train on other data than you named.",
        "Write every row as one of the three forms, or let `data.max_bad_rows` be left out.",
    ),
    "GK464": Code(
        "data in an unknown format",
        "The extension says how rows are read; guessing could read them wrong. Nothing is "
        "downloaded, and no code of a dataset is run.",
        "Name a .jsonl, .json, .csv, .parquet or .arrow file, or a folder of `save_to_disk`.",
    ),
    "GK465": Code(
        "fewer rows than asked for",
        "The run is shorter than `#N` suggests.",
        "Lower N to the number of rows, or leave `#N` out.",
    ),
    "GK466": Code(
        "rows that were not checked",
        "Reading all of a large file would make a check slow; the run reads every row.",
        "Nothing; a faulty row further down stops the run before its first step.",
    ),
    "GK468": Code(
        "a row that names no teacher",
        "With several teachers each row says whose distribution it is learnt from.",
        "Give every row a `teacher.server.column` that holds one of the keys of `urls`.",
    ),
    "GK469": Code(
        "a format whose package is not installed",
        "Parquet and Arrow are read by pyarrow, which the base install goes without.",
        "Type `pip install 'gkdplan[data]'`, or convert the file to .jsonl.",
    ),
    "GK470": Code(
        "a data file changed after the plan was compiled",
        "The run plan counts its rows and its steps; another file is another run.",
        "Compile the plan again, or put the file back as it was.",
    ),
    "GK471": Code(
        "a data file cannot be read when the run starts",
        "The run plan was compiled from it.",
        "Put the file back where the plan names it, readable on every node.",
    ),
    "GK472": Code(
        "a row of no known form",
        "A row that is skipped in silence would be a smaller data set than the plan says.",
        'Write {"messages": [...]}, {"prompt", "completion"} or {"prompt"}.',
    ),
    "GK473": Code(
        "the chat template refuses a row",
        "Some templates allow no system turn, or ask for turns that alternate.",
        "Change the turns of the row to what the template of the student's tokenizer allows.",
    ),
    "GK474": Code(
        "a rendered conversation does not begin with its rendered prompt",
        "It is then undefined which tokens answer the prompt.",
        "Change the chat template so that a later turn leaves the earlier ones as they are.",
    ),
    "GK475": Code(
        "the chat template closes an answer with no token",
        "A student that never learns to end its turn never stops.",
        "Use a chat template that ends an assistant turn with a special token.",
    ),
    "GK476": Code(
        "a prompt is longer than data.max_length",
        'With data.truncation = "error" every prompt has to fit.',
        "Raise data.max_length, shorten the row, or choose another data.truncation.",
    ),
    "GK477": Code(
        "a row with an empty prompt",
        "The first token of a response is predicted from the token before it.",
        "Give the row a prompt of at least one token.",
    ),
    "GK478": Code(
        "a row without a response where responses are learned from",
        "A step on the dataset's responses has nothing to learn from without one.",
        "Add the response, or let every step learn from sampled responses.",
    ),
    "GK479": Code(
        "too few rows for one global batch",
        "No step would run.",
        "Lower batch.global, or add rows; rows with too long a prompt may have been left out.",
    ),
    "GK480": Code(
        "the student's tokenizer cannot be loaded",
        "Without it no row has tokens.",
        "Put tokenizer.json and tokenizer_config.json beside the student's config.json.",
    ),
    "GK481": Code(
        "conversations, but no chat template",
        "Which tokens belong to which turn is what the template decides.",
        "Use a student whose tokenizer has a chat template, or rows of prompt and completion.",
    ),
    "GK482": Code(
        "completions, but no EOS token",
        "A completion ends with one EOS, or the student never learns to stop.",
        "Name the eos_token in the student's tokenizer_config.json.",
    ),
    "GK483": Code(
        "a chat template that does not end",
        "A rendering takes a millisecond; one that loops without end would hold every rank.",
        "Mend the template beside the student's tokenizer, or take the one its model came with.",
    ),
    "GK484": Code(
        "a row that names no teacher, found as the run starts",
        "Of a large file only the first rows are checked before; the run reads every row.",
        "Give the row one of the values shown, or add its value to `teacher.server.urls`.",
    ),
    "GK490": Code(
        "rows that are left out",
        "`data.max_bad_rows` lets a run go on without rows that cannot be used: it learns from "
        "fewer.",
        "Mend the rows that are named, and leave `data.max_bad_rows` out.",
    ),
    "GK491": Code(
        "weights that are not one for each file",
        "`data.weights` say how much of each file of `data.train` an epoch holds, in their order.",
        "Write as many weights as there are files.",
    ),
    "GK492": Code(
        "a file whose weight gives it no row",
        "An epoch has a whole number of rows of each file; of this one it is none.",
        "Give the file a larger weight, or take it out.",
    ),
}
