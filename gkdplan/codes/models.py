"""Models and tokenizers."""

from gkdplan.codes.code import Code

CODES: dict[str, Code] = {
    "GK101": Code(
        "a model that is not there",
        "Nothing can be planned for a model whose shape is unknown.",
        "Name a directory, download the model into the hub's cache, or use one with bundled facts.",
    ),
    "GK102": Code(
        "another architecture",
        "A near match would train a model that its publisher's code does not compute.",
        "Use a model of a family that is shown.",
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
}
