"""Models and rows that see."""

from gkdplan.codes.code import Code

CODES: dict[str, Code] = {
    "GK130": Code(
        "a key of models that see, of a model that does not",
        "The key would be ignored.",
        "Remove the key, or take a student that sees images.",
    ),
    "GK131": Code(
        "teacher and student do not see alike",
        "Both read one sequence of tokens, in which an image takes as many as the student's "
        "processor says.",
        "Take a teacher with the student's image processor and as many tokens an image.",
    ),
    "GK132": Code(
        "a student that sees of which nothing learns",
        "Every step would cost what it costs, and leave the student as it is.",
        "Let the tower, the projector or the decoder learn, on rows that reach it.",
    ),
    "GK467": Code(
        "an image that cannot be shown",
        "A row without its image asks for something that the model never saw.",
        "Give the row an image file that is there, within the limits of [data], or leave it out.",
    ),
    "GK485": Code(
        "an image that cannot be opened when the run starts, or within it",
        "Only the beginning of an image is looked at when a plan is checked.",
        "Mend the image of the row named, or leave the row out.",
    ),
    "GK496": Code(
        "images that cannot be fetched",
        "A row without its image asks for something that the model never saw.",
        "Mend the addresses that are named, or leave their rows out; what was fetched is kept.",
    ),
    "GK497": Code(
        "images that were not fetched yet",
        "The tokens of an image are counted from its file, and a check fetches nothing.",
        "Fetch them with `gkdplan check --data --fetch`, or leave it to the run.",
    ),
    "GK486": Code(
        "images for a model that sees none",
        "A text model would answer a question about an image that it never saw.",
        "Leave the rows out, or take models that see images.",
    ),
    "GK487": Code(
        "an image token that stands for no image",
        "Each image token of a prompt takes a feature of an image: one more takes another's.",
        "Take the token out of the texts, or put the model's own chat template in its directory.",
    ),
    "GK488": Code(
        "no image processor that fits the tower",
        "How an image is resized and scaled is part of what a tower has learnt.",
        "Put the model's preprocessor_config.json beside its config.json.",
    ),
    "GK489": Code(
        "a prompt with images that would be cut",
        "Half of an image's tokens would stand for another image.",
        'Raise data.max_length, or set data.truncation to "delete".',
    ),
}
