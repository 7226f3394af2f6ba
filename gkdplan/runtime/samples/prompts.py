"""What a sample says of the prompt that it answers."""

from gkdplan.runtime.data.examples import Example
from gkdplan.runtime.vision.images import Eyes
from gkdplan.samples import prompt_fingerprint


def fingerprint_of(example: Example, eyes: Eyes | None) -> str:
    """Of the tokens of its prompt and of the files of its images, which are read.

    Raises UserError (GK485) where one cannot be.
    """
    if not example.shown:
        return prompt_fingerprint(example.prompt)
    assert eyes is not None, "text models have no rows with images"
    return prompt_fingerprint(example.prompt, map(eyes.content, example.shown))
