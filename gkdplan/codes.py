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
    "GK101": Code(
        "a model that is not there",
        "Nothing can be planned for a model whose shape is unknown.",
        "Name a directory, download the model into the hub's cache, or use one with bundled facts.",
    ),
    "GK102": Code(
        "another architecture",
        "A near match would train a model that its publisher's code does not compute.",
        "Use a model of a supported family: Llama, Qwen2, Qwen2.5 or Qwen3, dense and text only.",
    ),
    "GK103": Code(
        "a config.json that cannot be read",
        "The shape of a model comes from its config.json.",
        "Download the file again; it is a JSON object of at most 8 MiB.",
    ),
    "GK104": Code(
        "a config key that is missing, of the wrong type or out of range",
        "Sizes are never guessed: one wrong size is another model.",
        "Mend the key in config.json, or download the file again.",
    ),
    "GK105": Code(
        "a feature of a model that this version cannot represent",
        "Leaving it out would compute other logits than the model's, without a word.",
        "Use a model without the feature named.",
    ),
    "GK106": Code(
        "an unreadable, truncated or damaged weight file",
        "A run would stop, or load noise, after the cluster has started.",
        "Download the file again; an interrupted download is the usual cause.",
    ),
    "GK107": Code(
        "weights that do not fit their config",
        "A tensor that is missing, or has no place, would be random or dropped.",
        "Put config.json and weights of one revision of one model into the directory.",
    ),
    "GK108": Code(
        "an index and shards that disagree",
        "Some tensors would not be found when the run loads them.",
        "Finish the download: the index and all shards, from one revision.",
    ),
    "GK109": Code(
        "weights in pickles",
        "A pickle can run any code while it is read.",
        "Save the model once as safetensors, with save_pretrained of transformers.",
    ),
    "GK110": Code(
        "weights that were not seen",
        "A plan can be checked without them, but a run needs them.",
        "Nothing, for a plan; before a run, put the safetensors beside config.json.",
    ),
    "GK111": Code(
        "a model known from bundled facts",
        "Its shape is known, so memory and layout hold; its files were not looked at.",
        "Nothing, for a plan; download the model to have weights and tokenizer checked too.",
    ),
    "GK112": Code(
        "a tokenizer that cannot be read, or whose files contradict each other",
        "Ids that depend on who reads the files train the wrong tokens.",
        "Download tokenizer.json and tokenizer_config.json again, from one revision.",
    ),
    "GK113": Code(
        "a tokenizer that was not seen",
        "Whether teacher and student share their tokens could not be checked.",
        "Put the model's tokenizer.json beside its config.json.",
    ),
    "GK114": Code(
        "tokens beyond the embedding",
        "Looking such a token up would read past the end of the embedding.",
        "Use the tokenizer that the model was trained with.",
    ),
    "GK115": Code(
        "a revision of a directory",
        "A directory has no revisions, so the key would be ignored.",
        "Remove the key, or name the model by its hub id.",
    ),
    "GK120": Code(
        "a device that is not in the table",
        "Without its memory nothing can be said to fit.",
        "Use a device of the table; `cluster.memory_limit` narrows its budget.",
    ),
    "GK201": Code(
        "ranks that do not divide into tensor groups",
        "Every rank belongs to exactly one tensor group, so the degree divides their number.",
        "Set `parallel.tensor` to a divisor of num_nodes x devices_per_node.",
    ),
    "GK202": Code(
        "attention heads that a tensor degree does not divide",
        "Megatron gives every rank of a tensor group the same number of whole heads.",
        "Set `parallel.tensor` to one of the degrees shown.",
    ),
    "GK203": Code(
        "kv heads that a tensor degree does not divide",
        "A rank owns whole kv heads; ranks may share one only if each head has as many ranks.",
        "Set `parallel.tensor` to one of the degrees shown.",
    ),
    "GK204": Code(
        "an ffn width that a tensor degree does not divide",
        "Megatron cuts the gated MLP into equal shares.",
        "Set `parallel.tensor` to one of the degrees shown.",
    ),
    "GK205": Code(
        "sequence parallelism without a tensor axis",
        "It divides tokens over the tensor axis; with one rank there is nothing to divide.",
        "Remove `sequence`, or raise `tensor`; left out, it follows the tensor axis.",
    ),
    "GK206": Code(
        "kept layers that a student cannot be made of",
        "The student is built from the named layers of a checkpoint, in its order.",
        "Name layers from 0 to the depth less one, rising, each once.",
    ),
    "GK207": Code(
        "a tensor group that spans nodes",
        "Its ranks exchange data in every layer, and the network between nodes is far slower.",
        "Choose a tensor degree that divides the devices of a node.",
    ),
    "GK301": Code(
        "a plan that does not fit",
        "The run would end in an out-of-memory error, perhaps after hours.",
        "Take one of the edits shown; each was priced before it was named.",
    ),
    "GK302": Code(
        "a plan that fits only just",
        "Above 80% of the memory, fragmentation decides whether a run survives.",
        "Lower `batch.micro`, shorten rows, or offload the teacher, for some headroom.",
    ),
    "GK303": Code(
        "host memory too small for what is offloaded",
        "Offloaded weights stay in the host's pinned memory for the whole run.",
        "Keep the teacher on the device, or use fewer ranks on a node.",
    ),
    "GK304": Code(
        "a memory limit above the device's memory",
        "The verdict would approve what the device cannot hold.",
        "Remove it, or set it to at most what the device has.",
    ),
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
    "GK420": Code(
        "a global batch that does not divide",
        "It is made of whole micro-batches on every data rank.",
        "Set `batch.global` to a multiple of micro x data ranks, as shown.",
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
        'Set `student.dtype` to "fp32" on a cpu.',
    ),
    "GK430": Code(
        "a key without effect",
        "Something was asked for that nothing in this plan reads.",
        "Remove the key, or set what would make it count.",
    ),
    "GK460": Code(
        "a data file that cannot be read",
        "There is nothing to learn from.",
        "Name an existing .jsonl or .json file, relative to the working directory.",
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
        "Write every row as one of the three forms, one a line in .jsonl.",
    ),
    "GK464": Code(
        "data in an unknown format",
        "The extension says how rows are read; guessing could read them wrong.",
        "Convert the file to .jsonl, one row a line.",
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
    "GK507": Code(
        "what running needs is not installed",
        "Checking and planning need three small packages; training needs torch and megatron-core.",
        "Install the extra: `pip install 'gkdplan[run]'`.",
    ),
    "GK510": Code(
        "the run directory holds another plan's run",
        "Two runs in one directory would mix their metrics and overwrite each other's students.",
        "Set `run.output` to another directory, or resume with the plan that began the run.",
    ),
    "GK511": Code(
        "the run directory already holds this plan's run",
        "`--resume never` promises a run from the beginning, and nothing is overwritten.",
        "Use `--resume auto` to go on, or set `run.output` to another directory.",
    ),
    "GK512": Code(
        "the run directory is not empty",
        "It holds files that no run of gkdplan wrote, and nothing is overwritten.",
        "Set `run.output` to a directory that does not exist yet.",
    ),
    "GK513": Code(
        "the run is finished",
        "All its steps are done: there is nothing to go on with.",
        "Set `run.output` to another directory to run the plan again.",
    ),
    "GK514": Code(
        "not a checkpoint of this run",
        "`--resume DIR` goes on from a whole checkpoint of the plan's own run directory only.",
        "Name one of the checkpoints listed, or use `--resume auto`.",
    ),
    "GK515": Code(
        "fewer GPUs than the plan wants",
        "Each rank needs a device of its own.",
        "Run the plan on the machine it was planned for.",
    ),
    "GK516": Code(
        "a model that is not on this machine",
        "The plan was checked from facts, but running needs the weights.",
        "Download the model first and name its directory.",
    ),
    "GK517": Code(
        "a training state that cannot be read",
        "Going on without it would not be the same run.",
        "Resume from an older checkpoint: `--resume` takes its directory.",
    ),
    "GK519": Code(
        "a tokenizer that a run has not seen",
        "Teacher and student would learn over ids that were never compared token by token.",
        "Put tokenizer.json beside the model's config.json.",
    ),
    "GK521": Code(
        "weights that cannot be read",
        "A file is missing or cut short, so the model would hold other numbers than you named.",
        "Fetch the file again; a download that broke off is the usual cause.",
    ),
    "GK522": Code(
        "a checkpoint that lacks a tensor",
        "The parameter would start from arbitrary numbers.",
        "Name a complete checkpoint of the architecture that config.json describes.",
    ),
    "GK523": Code(
        "a tensor of another shape than the plan's",
        "config.json and the weights describe different models.",
        "Put the config.json beside the weights that belongs to them, and compile the plan again.",
    ),
    "GK524": Code(
        "a tensor that the model has no place for",
        "Leaving it out would compute another function than the checkpoint's.",
        "Name a model of a family that gkdplan knows; adapters must be merged first.",
    ),
    "GK530": Code(
        "a rank raised",
        "One rank's failure ends all: the others would wait for it for ever.",
        "Read the traceback in the notes; then `--resume auto` goes on from the last checkpoint.",
    ),
    "GK531": Code(
        "a rank was killed",
        "A signal leaves no traceback; the kernel's out-of-memory killer is the usual sender.",
        "Look into the system's log, free memory, then `--resume auto` goes on.",
    ),
    "GK532": Code(
        "training diverged",
        "A loss or a gradient that is not finite spoils every parameter in the next update.",
        "Lower `optimizer.lr`, warm up longer or clip gradients, then resume or start again.",
    ),
    "GK590": Code(
        "a feature that is not yet available",
        "The vocabulary knows it, this version cannot run it, and ignoring it would be a lie.",
        "Use one of the values shown, or a later version of gkdplan.",
    ),
}
