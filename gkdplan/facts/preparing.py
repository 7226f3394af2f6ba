"""How a model that sees has its images prepared, where its directory says so."""

import os

from gkdplan.diagnostics import Diagnostic, error
from gkdplan.json_file import UnreadableError, read_object
from gkdplan.vision import VisionShape
from gkdplan.vision.preparing import fault_of

MAX_SETTINGS_BYTES = 2**20
WHOLE, OF_ALL = "preprocessor_config.json", "processor_config.json"
"""A file of an image processor alone, and one of a model's processors, which may have it."""
IMAGE_PROCESSOR = "image_processor"


def unfit_preparing(
    directory: str, vision: VisionShape | None, name: str
) -> tuple[Diagnostic, ...]:
    """Findings (GK488) at "model" for settings that no image can be prepared by; a file that is not
    there yet a run asks for. `name` is the model's for messages."""
    found = []
    for file in (WHOLE, OF_ALL):
        path = os.path.join(directory, file)
        if vision is None or not os.path.lexists(path):
            continue
        try:
            held = read_object(path, MAX_SETTINGS_BYTES)
            settings = held if file == WHOLE else held.get(IMAGE_PROCESSOR) or {}
            fault = fault_of(vision, settings) if isinstance(settings, dict) else "it is no table"
        except UnreadableError as failure:
            fault = f"it {failure}"
        if fault is not None:
            found.append(
                error(
                    "GK488",
                    f"no image can be prepared as {name}/{file} says",
                    "model",
                    label="an image processor comes with the model",
                    notes=(fault,),
                    help=(f"put the {file} that was published with the model in its place",),
                )
            )
    return tuple(found)
