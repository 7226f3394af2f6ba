"""The entries of data.train and data.eval: "data/alpaca.jsonl", "data/alpaca.jsonl#1000"."""

import os
from difflib import get_close_matches

from gkdplan.diagnostics import Diagnostic, error, note, warning
from gkdplan.facts.model import DataFile, TeacherColumn
from gkdplan.facts.survey import Survey, survey_rows
from gkdplan.json_file import UnreadableError
from gkdplan.pictures import USUAL_LIMITS, PictureLimits, hosts_to_name
from gkdplan.rowfiles import ForeignFormatError, MissingPackageError, open_rows
from gkdplan.text import printable

MAX_LIMIT_DIGITS = 15
MAX_MESSAGE_LENGTH = 240
NUM_SHOWN = 3
"""Rows that are named of those that are left out."""
FORMS = 'a row is {"messages": [...]}, {"prompt", "completion"} or {"prompt"}'

Findings = tuple[Diagnostic, ...]


def read_data_file(
    entry: str,
    column: TeacherColumn | None = None,
    limits: PictureLimits = USUAL_LIMITS,
    max_bad: int = 0,
) -> tuple[DataFile | None, Findings]:
    """One entry's file, or folder; None where there is an error. The findings have no path yet.
    Where there are several teachers, the `column` of a row names its own. Up to `max_bad` rows of
    the checked ones may be such as cannot be used; they count as none.

    The formats are those of `rowfiles`. GK460: the file cannot be read; GK461: a bad `#N`; GK462:
    no rows; GK463: a row cannot be used; GK464: another format; GK465, a warning: fewer rows than
    `#N`; GK466, a note: only the first rows were checked; GK467: a row shows an image that cannot
    be used; GK468: a row without a teacher; GK469: a format whose package is not installed; GK490,
    a warning: rows that are left out. Of an image no more is read than its beginning, and nothing
    is fetched.
    """
    path, suffix = _split(entry)
    limit = _limit(suffix)
    if suffix is not None and limit is None:
        return None, (_bad_limit(path, suffix),)
    try:
        survey = survey_rows(open_rows(path), limit, column, limits)
    except ForeignFormatError as failure:
        return None, (_other_format(path, failure),)
    except MissingPackageError as package:
        return None, (_missing_package(path, package),)
    except UnreadableError as failure:
        return None, (_unreadable(path, failure),)
    if len(survey.faults) > max_bad:
        return None, (_unusable_rows(survey, max_bad),)
    if survey.strays:
        return None, (_rows_without_teacher(survey),)
    if survey.blind_spots:
        return None, (_unusable_images(survey),)
    if survey.num_rows == len(survey.faults):
        return None, (error("GK462", f"`{printable(path)}` holds no rows"),)
    return _conclude(survey, entry, path, limit, limits)


def _conclude(
    survey: Survey, entry: str, path: str, limit: int | None, limits: PictureLimits
) -> tuple[DataFile, Findings]:
    """What all checked rows have, the unchecked ones are taken to have too."""
    num_wanted = min(limit or survey.num_rows, survey.num_rows)
    num_unchecked = num_wanted - survey.num_checked
    num_bad = len(survey.faults)
    num_taken = num_wanted - num_bad

    def of_all(num_found: int) -> int:
        return num_taken if num_found == survey.num_checked - num_bad else num_found

    findings: list[Diagnostic] = []
    if limit is not None and limit > survey.num_rows:
        findings.append(_fewer_rows(path, limit, survey.num_rows))
    if num_bad:
        findings.append(_rows_left_out(path, survey))
    if num_unchecked:
        findings.append(_partly_checked(path, survey, num_unchecked))
    file = DataFile(
        entry=entry,
        path=path,
        limit=limit,
        num_rows=num_taken,
        num_rows_with_response=of_all(survey.num_responses),
        num_rows_with_messages=of_all(survey.num_conversations),
        fingerprint=survey.fingerprint,
        longest_prompts=survey.longest.found(),
        num_rows_with_images=survey.num_seeing,
        most_images=limits.number if num_unchecked else survey.most_images,
    )
    return file, tuple(findings)


def _split(entry: str) -> tuple[str, str | None]:
    """The path and what follows the last `#`; a `#` inside a directory's name is part of it."""
    path, mark, suffix = entry.rpartition("#")
    return (path, suffix) if mark and "/" not in suffix else (entry, None)


def _limit(suffix: str | None) -> int | None:
    """The number of rows to take, or None where the suffix is no number from 1."""
    is_number = suffix is not None and suffix.isascii() and suffix.isdigit()
    if suffix is None or not is_number or len(suffix) > MAX_LIMIT_DIGITS:
        return None
    return int(suffix) or None


def _bad_limit(path: str, suffix: str) -> Diagnostic:
    return error(
        "GK461",
        f"`#{printable(suffix)}` is not a number of rows from 1",
        help=(
            f'write "{printable(path)}#1000" for the first 1,000 rows, or leave `#` out for all',
        ),
    )


def _other_format(path: str, failure: ForeignFormatError) -> Diagnostic:
    return error(
        "GK464",
        f"`{printable(path)}` is in no known format of rows",
        notes=failure.notes,
    )


def _missing_package(path: str, package: MissingPackageError) -> Diagnostic:
    return error(
        "GK469",
        f"`{printable(path)}` is read by {package}, which is not installed",
        help=("install it: `pip install 'gkdplan[data]'`", "or convert the file to .jsonl"),
    )


def _unreadable(path: str, failure: UnreadableError) -> Diagnostic:
    help: tuple[str, ...] = ()
    if not os.path.lexists(path):
        help = tuple(f'did you mean "{printable(near)}"?' for near in _nearest_files(path))
    elif path.lower().endswith(".json"):
        help = ("a file with one row a line is named .jsonl",)
    return error("GK460", f"the data file `{printable(path)}` {failure}", help=help)


def _nearest_files(path: str) -> list[str]:
    directory, name = os.path.split(path)
    try:
        siblings = os.listdir(directory or ".")
    except (OSError, ValueError):
        return []
    return [os.path.join(directory, near) for near in get_close_matches(name, siblings, n=1)]


def _fewer_rows(path: str, limit: int, num_rows: int) -> Diagnostic:
    return warning(
        "GK465",
        f"`{printable(path)}` holds {num_rows:,} rows, and {limit:,} are asked for",
        help=(f"write `#{num_rows}`, or leave it out",),
    )


def _partly_checked(path: str, survey: Survey, num_others: int) -> Diagnostic:
    are_alike = survey.num_responses in (0, survey.num_checked - len(survey.faults))
    taken = "are taken to be like them" if are_alike else "are taken to have no response"
    checked = f"only the first {survey.num_checked:,} rows of `{printable(path)}` were checked"
    return note("GK466", f"{checked}: the other {num_others:,} {taken}")


def _rows_left_out(path: str, survey: Survey) -> Diagnostic:
    count = f"{len(survey.faults):,} of {survey.num_checked:,} checked rows"
    return warning(
        "GK490",
        f"{count} of `{printable(path)}` cannot be used, and are left out",
        notes=tuple(printable(fault, MAX_MESSAGE_LENGTH) for fault in survey.faults[:NUM_SHOWN]),
        help=("mend them, and leave `data.max_bad_rows` out",),
    )


def _unusable_rows(survey: Survey, max_bad: int) -> Diagnostic:
    count = f"{len(survey.faults):,} of {survey.num_checked:,} checked rows cannot be used"
    first = printable(survey.faults[0], MAX_MESSAGE_LENGTH)
    allowed = (f"`data.max_bad_rows` = {max_bad:,}",) if max_bad else ()
    return error("GK463", first, notes=(count, *allowed), help=(FORMS,))


def _unusable_images(survey: Survey) -> Diagnostic:
    count = f"{len(survey.blind_spots):,} of {survey.num_checked:,} checked rows show such images"
    note, help = "paths start at the working directory", tuple[str, ...]()
    if survey.forbidden:
        note = "a check looks at the host of an address, and fetches nothing"
        help = (hosts_to_name(survey.limits, survey.forbidden),)
    return error(
        "GK467",
        printable(survey.blind_spots[0], MAX_MESSAGE_LENGTH),
        notes=(count, note),
        help=(*help, "give the row images that are there, or leave it out"),
    )


def _rows_without_teacher(survey: Survey) -> Diagnostic:
    assert survey.column is not None
    known = ", ".join(map(printable, survey.column.values))
    count = f"{len(survey.strays):,} of {survey.num_checked:,} checked rows name no teacher"
    return error(
        "GK468",
        printable(survey.strays[0], MAX_MESSAGE_LENGTH),
        notes=(count, f"known values: {known}"),
        help=("give the rows one of them, or add their value to `teacher.server.urls`",),
    )
