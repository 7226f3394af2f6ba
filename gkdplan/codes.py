"""The code table: what each diagnostic means, why it is refused and what mends it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """One row: `title` names the rule, `why` the harm it prevents, `mend` the usual way out."""

    title: str
    why: str
    mend: str


CODES: dict[str, Code] = {
    "GK001": Code(
        "the plan is not valid TOML",
        "A plan that cannot be parsed says nothing, so nothing else is checked.",
        "Mend the text at the place shown; a common slip is a missing quote or bracket.",
    ),
    "GK002": Code(
        "a key that no plan has",
        "A key that nothing reads would be a flag that is ignored, so it is an error.",
        "Use the nearest known key, or remove it; `gkdplan schema` prints the whole vocabulary.",
    ),
    "GK003": Code(
        "a value of the wrong type or outside its range",
        "Values are never coerced: what you wrote is what runs, or it is refused.",
        "Write a value of the type named; numbers carry no quotes, flags are true or false.",
    ),
    "GK004": Code(
        "a required key is missing",
        "No default is honest for it.",
        "Add the key to the table shown.",
    ),
    "GK005": Code(
        "the plan file cannot be read",
        "Nothing can be checked without it.",
        "Name an existing UTF-8 file; without a path, plan.toml of the working directory is read.",
    ),
    "GK006": Code(
        "keys that contradict each other",
        "Two keys that ask for different things leave it open which one runs.",
        "Keep one of them.",
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
        "A step on the dataset's responses, and every evaluation, needs them.",
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
    "GK501": Code(
        "a stale lock",
        "`--locked` promises that the reviewed decisions run, and the plan now decides others.",
        "Read the differences; undo them, or accept them with `gkdplan plan PLAN -o LOCK`.",
    ),
    "GK502": Code(
        "a file that is not a lock of gkdplan",
        "A lock is read strictly, never guessed at, and no file of another kind is overwritten.",
        "Name a file that `gkdplan plan PLAN -o LOCK` wrote, or one that does not exist yet.",
    ),
    "GK503": Code(
        "a lock that was edited",
        "Its numbers were decided together; changing one by hand leaves the others wrong.",
        "Change the plan and write the lock again with `gkdplan plan PLAN -o LOCK`.",
    ),
    "GK504": Code(
        "a lock of another format",
        "A field that this version does not know could change what runs.",
        "Write the lock again with this version of gkdplan, or use the version that wrote it.",
    ),
    "GK505": Code(
        "a file that cannot be read or written",
        "The command would have no input, or its result would be lost.",
        "Name a path that exists and that you may read; a directory to write into must exist.",
    ),
    "GK506": Code(
        "a directory that holds no run",
        "A report shows what a run left behind: its lock and its metrics.",
        "Name the directory that `gkdplan run` printed as it ended.",
    ),
}
