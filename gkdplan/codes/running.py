"""Files, environment and runs."""

from gkdplan.codes.code import Code

CODES: dict[str, Code] = {
    "GK500": Code(
        "a command line that fits no command",
        "Nothing is guessed of what was meant; with `--json` the answer is a finding like others.",
        "Use the command as its usage says; `gkdplan COMMAND --help` lists its options.",
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
        "Checking and planning need four small packages; training needs torch and megatron-core.",
        "Install the extra: `pip install 'gkdplan[run]'`.",
    ),
    "GK508": Code(
        "a file that is not a page of gkdplan",
        "A page may replace an older page; a plan, a lock or a file of yours stays as it is.",
        "Name a file that does not exist yet, or an HTML page.",
    ),
    "GK509": Code(
        "a number that the ledger does not have",
        "A formula belongs to one row of one phase, priced by the version that shows it.",
        "Name a row, a phase, or both, as `gkdplan memory` shows them: `student.activations`.",
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
    "GK518": Code(
        "a run that is going on already",
        "Two processes in one run directory would write over each other's logs and checkpoints.",
        "Wait for the other process, stop it, or set `run.output` to another directory.",
    ),
    "GK519": Code(
        "a tokenizer that a run has not seen",
        "Teacher and student would learn over ids that were never compared token by token.",
        "Put tokenizer.json beside the model's config.json.",
    ),
    "GK520": Code(
        "a file that is there already",
        "A plan that was written by hand would be lost.",
        "Name a file that does not exist yet.",
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
    "GK525": Code(
        "kernels that are not installed",
        "Transformer Engine was asked for, or is the default on GPUs; others keep other bytes.",
        'Set `cluster.kernels = "torch"`, or install Transformer Engine.',
    ),
    "GK526": Code(
        "a loss that this machine cannot compile",
        "torch.compile writes C++ for a CPU, which takes a compiler.",
        "Install the compiler, or name another `distill.loss_backend`.",
    ),
    "GK527": Code(
        "an engine that is not installed",
        "vLLM is a large package of its own, and only plans that name it need it.",
        'Install the extra `vllm`, or sample with `generation.engine = "megatron"`.',
    ),
    "GK528": Code(
        "a package of a version that gkdplan was not tried with",
        "A run may end otherwise than its plan says.",
        "Install the version that is shown.",
    ),
    "GK529": Code(
        "models that fit these devices in no layout",
        "A first plan is written only where it passes check.",
        "Take more devices, adapters or a smaller model; offload was tried already.",
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
        "Loss or gradient was not finite, more often in a row than `run.max_skipped_steps`.",
        "Look at the rows in `skipped/`; lower `optimizer.lr` or warm up longer, then resume.",
    ),
    "GK533": Code(
        "a run that was stopped by a signal",
        "Someone pressed Ctrl-C, or a scheduler wanted the machine back.",
        "Run the same command again: `--resume auto` goes on from the last checkpoint.",
    ),
    "GK535": Code(
        "a checkpoint that is not whole",
        "A file of it is missing or has other bytes than those that were saved.",
        "Nothing: the run goes on from the newest one that is whole, and repeats the steps since.",
    ),
    "GK536": Code(
        "a disk that is full",
        "A checkpoint or a line of the log could not be written; what was whole before still is.",
        "Free space on the disk of `run.output`, or lower `run.keep`; the same command goes on.",
    ),
    "GK538": Code(
        "a disk without room for the checkpoints",
        "The run would stop in the middle, when a checkpoint does not fit any more.",
        "Free space, set `run.output` to another disk, or lower `run.keep`.",
    ),
    "GK537": Code(
        "a rank that does not answer",
        "The others need its part of what they do together, and would wait for it for ever.",
        "Look at its process, host and network; or raise `cluster.collective_timeout_s`.",
    ),
    "GK539": Code(
        "a run that went on in another layout",
        "Each rank read its share of the state that other ranks had saved.",
        "Nothing: the weights, the moments and the order of rows are those of the run so far.",
    ),
    "GK540": Code(
        "a server that does not answer",
        "The student's samples are drawn there; a run would stop at its first step.",
        "Start it with `gkdplan serve PLAN`, and wait until it says that it is up.",
    ),
    "GK541": Code(
        "a server that wants another key",
        "`gkdplan serve` has every route ask for a key, those that replace weights too.",
        "Set `VLLM_API_KEY` to one key where the server starts and where the run does.",
    ),
    "GK542": Code(
        "a server that cannot do what the plan asks",
        "It must take weights while it is up, prompts as tokens, and the plan's longest row.",
        "Start it with `gkdplan serve PLAN`, which gives vllm the plan's limits and routes.",
    ),
    "GK543": Code(
        "a server that refuses the student's weights",
        "It would go on sampling with others, which the student does not learn from.",
        "Start it with `gkdplan serve PLAN`: its model must have the student's shape and dtype.",
    ),
    "GK544": Code(
        "an answer that is no completion",
        "What it lacks would be guessed, and a guess is no sample of the student's.",
        "Start the server with `gkdplan serve PLAN`: answers differ between versions of vllm.",
    ),
    "GK546": Code(
        "no server that answers any more",
        "Every server of the plan went away while the run was going on, and none came back.",
        "Start one again with `gkdplan serve PLAN`; the same command then goes on.",
    ),
    "GK547": Code(
        "nothing to serve",
        "`gkdplan serve` starts one server of the plan, at an address that the plan names.",
        "Name servers in `generation.server_url` or `[teacher.server]`, and choose with `--url`.",
    ),
    "GK534": Code(
        "a run that needs more memory than it has",
        "A rank held more on its device than `cluster.memory_limit` allows, or than there is.",
        "Compare `gkdplan memory PLAN` with the report; shorten rows, or take what `search` finds.",
    ),
    "GK570": Code(
        "an engine whose logits are not finite",
        "A token drawn from them is arbitrary, and the student would learn from it.",
        "Lower `optimizer.lr` where the student diverged; resume from before that.",
    ),
    "GK571": Code(
        "responses of other weights",
        "A response is the student's only where the weights of that step drew all of it.",
        "Let nothing else update the engine's weights, then resume.",
    ),
    "GK572": Code(
        "a sampled id outside the vocabulary",
        "Neither the loss nor the tokenizer has a place for it.",
        "Serve the student that the plan names, with its own config.json.",
    ),
    "GK573": Code(
        "responses that are empty",
        "The model that samples ends at once, and nothing but the end is learnt from it.",
        "Look at completions.jsonl; lower `distill.lmbda` or `optimizer.lr` if it began so.",
    ),
    "GK574": Code(
        "a gradient that grows",
        "Its norm is ten times what it was in the steps before: training may be about to diverge.",
        "Look at the rows of the step; lower `optimizer.lr` or `optimizer.clip_grad` if it stays.",
    ),
    "GK580": Code(
        "a world of another size than the plan's",
        "The layout says what each rank holds; with more or fewer of them there is no such rank.",
        "Start the ranks as `gkdplan launch torchrun|slurm|k8s PLAN` prints it.",
    ),
    "GK581": Code(
        "an environment that lacks what ranks need to meet",
        "Ranks of several hosts are started by torchrun or Slurm, which tell each its number.",
        "Start the ranks as `gkdplan launch torchrun|slurm|k8s PLAN` prints it.",
    ),
    "GK582": Code(
        "ranks that did not meet",
        "A rank did not start, or a network does not let it through to rank 0.",
        "Look at the hosts named; raise `cluster.join_timeout_s` if they start at different times.",
    ),
    "GK583": Code(
        "hosts that would not run the same",
        "Ranks with other plans or versions would wait for each other, or learn something else.",
        "Give every host the same plan, models, data and packages.",
    ),
    "GK584": Code(
        "a run directory that not every host sees",
        "Every rank writes its part of a checkpoint there, and resumes from it.",
        "Set `run.output` to a path on a file system that all hosts share.",
    ),
    "GK585": Code(
        "a host with less memory than the plan needs",
        "What is offloaded, and on a cpu the ranks themselves, would not fit into what is free.",
        "Free memory, offload less, or take fewer devices a node.",
    ),
    "GK588": Code(
        "a student that cannot be exported",
        "Half a model, or one whose bytes have changed, is worse than none.",
        "Name a run with a whole checkpoint, and a directory that does not exist yet.",
    ),
    "GK589": Code(
        "a GPU with less memory than a rank needs",
        "The plan was priced for another device, and would end without memory.",
        "Run it where it was planned for, or plan with `cluster.memory_limit`.",
    ),
    "GK590": Code(
        "a feature that is not yet available",
        "The vocabulary knows it, this version cannot run it, and ignoring it would be a lie.",
        "Use one of the values shown, or a later version of gkdplan.",
    ),
    "GK591": Code(
        "a value that is planned, but not yet run",
        "Its layout, memory and steps are decided; the executor of this version cannot run them.",
        "Plan and compare with it as you like; to run, take the value away.",
    ),
}
