"""What a file of rows holds: how many rows, how many with a response, which cannot be used.

A row is an object with `messages` (a list of {"role", "content"}), or with `prompt` and perhaps
`completion`; where it has both, `messages` is the row. A row whose messages do not end with the
assistant's turn, or that has no completion, is a prompt, for a model to answer.
"""

import sys
from dataclasses import dataclass, field
from itertools import islice

from gkdplan.contents import contents_of, pictures_of
from gkdplan.facts.model import TeacherColumn
from gkdplan.facts.prompts import LongestPrompts
from gkdplan.json_file import UnreadableError
from gkdplan.pictures import USUAL_LIMITS, ForbiddenHostError, PictureError, PictureLimits
from gkdplan.rowfiles import RowFile
from gkdplan.text import shown
from gkdplan.turns import ASSISTANT, fault_of, is_text

FULL_CHECK_BYTES = 8 * 2**20
"""Up to this size every row of a file is checked, beyond it the first NUM_CHECKED_ROWS."""
NUM_CHECKED_ROWS = 1000


@dataclass(slots=True)
class Survey:
    """`num_rows` of the whole file, its sha256, and what its checked rows are.

    A fault is a sentence that starts with the row's place; so is a stray, a row whose `column`
    names no teacher, and a blind spot, a row with an image that cannot be shown. `num_seeing` rows
    show images, none more than `most_images`. `forbidden` are hosts of images that the limits do
    not name.
    """

    fingerprint: str = ""
    num_rows: int = 0
    num_checked: int = 0
    num_responses: int = 0
    num_conversations: int = 0
    longest: LongestPrompts = field(default_factory=LongestPrompts)
    faults: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    blind_spots: list[str] = field(default_factory=list)
    forbidden: set[str] = field(default_factory=set)
    num_seeing: int = 0
    most_images: int = 0
    column: TeacherColumn | None = None
    limits: PictureLimits = USUAL_LIMITS

    def check(self, place: str, row: object) -> None:
        """Count a row as one with a response, a prompt, or one that cannot be used."""
        self.num_checked += 1
        if isinstance(row, UnreadableError):
            self.faults.append(f"{place} {row}")
            return
        try:
            self.num_responses += _has_response(row)
        except UnreadableError as failure:
            self.faults.append(f"{place} holds a row that {failure}")
            return
        assert isinstance(row, dict)
        self.num_conversations += "messages" in row
        self.longest.see(place, row)
        self._find_teacher(place, row)
        self._look_at_pictures(place, row)

    def _look_at_pictures(self, place: str, row: dict[str, object]) -> None:
        if "messages" not in row:
            return
        pictures = pictures_of(contents_of(row))
        self.num_seeing += bool(pictures)
        self.most_images = max(self.most_images, len(pictures))
        try:
            if len(pictures) > self.limits.number:
                raise PictureError(
                    f"shows {len(pictures)} images, and `data.max_images` is {self.limits.number}"
                )
            for picture in pictures:
                picture.check(self.limits)
        except PictureError as failure:
            self.blind_spots.append(f"{place} holds a row that {failure}")
            if isinstance(failure, ForbiddenHostError):
                self.forbidden.add(failure.site)

    def _find_teacher(self, place: str, row: object) -> None:
        if self.column is None:
            return
        assert isinstance(row, dict), "a row that can be used"
        value = row.get(self.column.name)
        if value not in self.column.values:
            holds = "no" if value is None else f"{shown(value)} as its"
            names = f"{holds} `{self.column.name}`, which names no teacher"
            self.strays.append(f"{place} holds a row with {names}")


def survey_rows(
    file: RowFile,
    limit: int | None,
    column: TeacherColumn | None = None,
    limits: PictureLimits = USUAL_LIMITS,
) -> Survey:
    """Of a file's rows; those past `limit` are not checked.

    Raises UnreadableError and MissingPackageError, as `file` does.
    """
    found = file.identity()
    survey = Survey(found.fingerprint, found.num_rows, column=column, limits=limits)
    is_small = file.num_bytes <= FULL_CHECK_BYTES
    num_to_check = min(limit or sys.maxsize, sys.maxsize if is_small else NUM_CHECKED_ROWS)
    for place, row in islice(file.rows(), num_to_check):
        survey.check(place, row)
    return survey


def _has_response(row: object) -> bool:
    """Raises UnreadableError where the row is none of the forms."""
    if not isinstance(row, dict):
        raise UnreadableError("is not an object")
    if "messages" in row:
        fault = fault_of(row)
        if fault is not None:
            raise UnreadableError(fault)
        is_answered: bool = row["messages"][-1]["role"] == ASSISTANT
        return is_answered
    if row.get("images"):
        raise UnreadableError("has `images`, which only rows of `messages` can show")
    if not is_text(row.get("prompt")):
        raise UnreadableError("has neither `messages` nor a `prompt` of text")
    completion = row.get("completion")
    if completion is not None and not is_text(completion):
        raise UnreadableError(f"has {shown(completion)} as its `completion`, not text")
    return completion is not None
