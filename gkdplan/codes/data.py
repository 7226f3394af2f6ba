"""Rows: their files, their forms, their tokens, and the mix of several files."""

from gkdplan.codes.code import Code

CODES: dict[str, Code] = {
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
    "GK495": Code(
        "more answers than held-out prompts",
        "An evaluation lets the student answer the first `run.eval_samples` prompts of "
        "`data.eval`, each once.",
        "Lower `run.eval_samples`, or add rows to `data.eval`.",
    ),
    "GK493": Code(
        "a directory that cannot keep the tokens of rows",
        "Rank 0 makes them once and every rank maps the files, so that none has them in memory.",
        "Name a directory in `data.cache` that can be written, or leave the key out: then it is "
        "in `run.output`.",
    ),
    "GK494": Code(
        "tokens of rows that a rank does not find",
        "Rank 0 put them where all ranks look, under a name made of the data, the tokenizer's "
        "files and the versions of what reads them.",
        "Share `run.output`, or `data.cache` where it is set, between all hosts, and install one "
        "version of everything on all.",
    ),
}
