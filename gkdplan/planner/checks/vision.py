"""Rules of models that see images, and of rows that show some."""

from collections.abc import Iterator

from gkdplan import __version__
from gkdplan.facts.model import DataFile, Facts
from gkdplan.planner.checks.laid_out import each_model
from gkdplan.planner.checks.rule import Finding, rule
from gkdplan.planner.layout import stage_layers
from gkdplan.spec.plan import Plan
from gkdplan.vision import deep_layers_of

KEYS = {
    "student": ("freeze_vision", "freeze_projector", "freeze_language"),
    "data": ("max_images", "max_image_bytes", "max_image_pixels", "image_hosts"),
}
"""Of models that see, by table."""


@rule("GK130")
def only_models_that_see_have_keys_of_sight(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """A text model has no tower to freeze, and no row shows it an image."""
    if facts.student.shape.vision is not None:
        return
    given = [
        f"{table}.{key}"
        for table, keys in KEYS.items()
        for key in keys
        if getattr(getattr(plan, table), key) is not None
    ]
    for path in given:
        yield Finding(
            f"`{path}` is of models that see images, and the student sees none",
            path,
            label="a text model has nothing of it",
            notes=(f"no vision in {facts.student.origin}",),
            help=("remove it",),
        )


@rule("GK131")
def both_models_see_alike(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Both read one sequence, in which an image takes as many tokens for either."""
    student, teacher = facts.student.shape.vision, facts.teacher.shape.vision
    if student is None and teacher is None:
        return
    if student is None or teacher is None:
        seeing, other = ("student", "teacher") if student else ("teacher", "student")
        yield Finding(
            f"the {seeing} sees images and the {other} sees none",
            "teacher.model",
            label="image tokens would mean nothing to one of them",
            help=("take two models that see, or two that do not",),
        )
        return
    if type(student) is not type(teacher):
        yield Finding(
            "student and teacher cut an image into tokens by different rules",
            "teacher.model",
            label="one sequence cannot hold both",
            help=("take a teacher of the student's family",),
        )
        return
    for name, of_student in student.as_cut.items():
        of_teacher = teacher.as_cut[name]
        if of_student != of_teacher:
            yield Finding(
                f"the student has {of_student:,} {name}, the teacher {of_teacher:,}",
                "teacher.model",
                label="one sequence cannot hold both",
                help=("take a teacher with the student's image processor and tower",),
            )


@rule("GK486")
def rows_with_images_have_a_model_that_sees(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """A text model would answer without the image."""
    if facts.student.shape.vision is not None:
        return
    for split, files in (("train", facts.train), ("eval", facts.eval)):
        for index, file in enumerate(files):
            if file.num_rows_with_images:
                yield Finding(
                    f"{_num_rows(file)} of {file.path} show images, and the student sees none",
                    f"data.{split}[{index}]",
                    label="it would answer without them",
                    help=("leave the rows out, or take models that see images",),
                )


@rule("GK132")
def something_of_a_model_that_sees_learns(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Where the decoder stays as it is, its eyes learn, and from images alone."""
    student, path = plan.student, "student.freeze_language"
    if facts.student.shape.vision is None or student.freeze_language is not True:
        return
    if student.tuning == "lora":
        yield Finding(
            "the adapters are of a decoder that stays as it is",
            path,
            label="adapters are the decoder's alone",
            help=("remove it", 'set `student.tuning` to "full"'),
        )
    elif student.freeze_vision is not False and student.freeze_projector is not False:
        yield Finding(
            "decoder, tower and projector stay as they are",
            path,
            label="nothing of the student learns",
            notes=("tower and projector stay as they are unless the plan says otherwise",),
            help=("remove it", "set `student.freeze_vision` or `freeze_projector` to false"),
        )
    elif not any(file.num_rows_with_images for file in facts.train):
        yield Finding(
            "the student's eyes alone learn, and no checked row shows an image",
            path,
            label="no row reaches what learns",
            help=("add rows with images to `data.train`", "let the decoder learn"),
        )


@rule("GK590")
def what_sight_goes_with_is_available(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """What a plan of models that see would ask of this version in vain."""
    if facts.student.shape.vision is None or facts.teacher.shape.vision is None:
        return
    student = plan.student
    for key, part in (("freeze_vision", "tower"), ("freeze_projector", "projector")):
        if student.init == "random" and getattr(student, key) is not False:
            yield _not_yet(
                f"random weights of a {part} that stays as it is are",
                "student.init",
                f'set `student.{key}` to false, or `init` to "pretrained"',
            )


@rule("GK590")
def towers_that_speak_to_layers_are_available(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """What a tower says to the decoder's first layers is added where the tower is."""
    for model in each_model(plan, facts):
        spoken, num_layers = deep_layers_of(model.shape.vision), model.shape.num_layers
        num_chunks = model.parallel.pipeline * model.parallel.virtual_pipeline
        if not spoken or num_chunks > num_layers:  # refused by the rules of pipelines
            continue
        first = next((stage[0] for stage in stage_layers(num_layers, model.parallel)), 0)
        if first < spoken:
            yield _not_yet(
                f"the tower of {model.name} speaks to {spoken} layers, the first stage has {first} "
                "in its first chunk, and layers of several chunks are",
                model.path("pipeline"),
                f"give the first chunk {spoken} layers or more",
            )


def _not_yet(what: str, path: str, help: str) -> Finding:
    message = f"{what} not yet available in gkdplan {__version__}"
    return Finding(message, path, label="not yet available", help=(help,))


RULES = (
    only_models_that_see_have_keys_of_sight,
    both_models_see_alike,
    rows_with_images_have_a_model_that_sees,
    something_of_a_model_that_sees_learns,
    what_sight_goes_with_is_available,
    towers_that_speak_to_layers_are_available,
)


def _num_rows(file: DataFile) -> str:
    return f"{file.num_rows_with_images:,} checked rows"
