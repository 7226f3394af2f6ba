"""Images that rows name by address: fetched once, before the rows become tokens."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from gkdplan.addresses import Address
from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.pictures import ForbiddenHostError, PictureError, PictureLimits, hosts_to_name
from gkdplan.runtime.data.cache.copies import PLACE, Copies, flaw_of
from gkdplan.runtime.data.cache.fetching import MOST_FAILURES, fetch
from gkdplan.runtime.data.cache.owned import KeptIn, Tell
from gkdplan.runtime.data.chat import Chat
from gkdplan.runtime.data.examples import Split, teacher_column
from gkdplan.runtime.data.rows import TurnsRow, read_items, read_row
from gkdplan.text import printable
from gkdplan.units import format_bytes

NEWS_S = 20.0
"""Between two lines on how far it is."""
MAX_REASON = 240


@dataclass(frozen=True, slots=True)
class _Fault:
    """What is wrong with an image, as the end of a sentence that its row begins: it stands at
    `location`, in the file that `key` of the plan names."""

    location: str
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An address that rows name, and the first of them; `text` is as it is written there."""

    address: Address
    text: str
    location: str
    key: str


def chat_with_copies(chat: Chat, split: Split, place: KeptIn, tell: Tell) -> Chat:
    """The chat that sees what the rows of the split name by address, fetched unless it is there
    already; one that sees nothing, or of a plan that allows no host, is as it was.

    Raises UserError: GK496 where an image cannot be fetched, GK493 and GK536 as `KeptIn.alone`,
    GK469 to GK471 as `read_items` does.
    """
    if chat.eyes is None or not chat.eyes.limits.hosts:
        return chat
    limits = chat.eyes.limits
    wanted = _wanted(split, limits)
    if not wanted:
        return chat
    with place.alone(PLACE, tell, "fetches images into"):
        copies = Copies.read(place.path / PLACE)
        copies.tidy()
        _fetch_missing(copies, wanted, limits, tell)
    return _with_copies(chat, copies)


def chat_with_what_is_there(chat: Chat, place: KeptIn) -> Chat:
    """The chat that sees of what addresses gave the copies that there are; nothing is fetched."""
    if chat.eyes is None or not chat.eyes.limits.hosts:
        return chat
    return _with_copies(chat, Copies.read(place.path / PLACE))


def _with_copies(chat: Chat, copies: Copies) -> Chat:
    assert chat.eyes is not None
    return replace(chat, eyes=replace(chat.eyes, copies=copies))


def _wanted(split: Split, limits: PictureLimits) -> dict[str, _Wanted]:
    """By the one spelling of each address; raises UserError where the plan does not allow some."""
    wanted: dict[str, _Wanted] = {}
    faults, forbidden = [], set()
    for row, key in _rows_with_pictures(split, limits):
        for picture in row.pictures:
            if picture.address is None:
                continue
            try:
                address = picture.require_allowed(limits)
            except PictureError as failure:
                faults.append(_Fault(row.location, key, str(failure)))
                if isinstance(failure, ForbiddenHostError):
                    forbidden.add(failure.site)
            else:
                found = _Wanted(address, picture.address, row.location, key)
                wanted.setdefault(address.url, found)
        if len(faults) >= MOST_FAILURES:
            break
    if faults:
        help = (hosts_to_name(limits, forbidden),) if forbidden else ()
        raise UserError(_not_fetched(faults, help))
    return wanted


def _rows_with_pictures(split: Split, limits: PictureLimits) -> Iterator[tuple[TurnsRow, str]]:
    """Those that tokenising will not refuse for their form or their number of pictures."""
    for i, source in enumerate(split.sources):
        key = f"{split.key}[{i}]"
        for item in read_items(source, key):
            try:
                row = read_row(item, key, *teacher_column(split.server))
            except UserError:
                continue
            if isinstance(row, TurnsRow) and len(row.pictures) <= limits.number:
                yield row, key


def _fetch_missing(
    copies: Copies, wanted: Mapping[str, _Wanted], limits: PictureLimits, tell: Tell
) -> None:
    kept = {url: copies.digests[url] for url in wanted if url in copies.digests}
    flaws = {url: flaw for url in kept if (flaw := flaw_of(copies.directory, url, kept[url]))}
    if flaws:
        tell(f"{next(iter(flaws.values()))}; images to fetch anew: {len(flaws):,}")
    missing = [one for url, one in wanted.items() if url in flaws or url not in kept]
    if not missing:
        return
    news = _News(len(missing), copies, tell)
    failures = fetch((one.address for one in missing), limits, news.keep)
    news.end()
    if failures:
        named = [(wanted[failure.address.url], failure.reason) for failure in failures]
        faults = [
            _Fault(one.location, one.key, f"has the image `{one.text}`, which {reason}")
            for one, reason in named
        ]
        kept_words = f"{news.num_kept:,} others were fetched, and stay in {copies.directory}"
        raise UserError(_not_fetched(faults, (), kept_words))


class _News:
    """Keeps what comes, and tells how far it is."""

    def __init__(self, num_wanted: int, copies: Copies, tell: Tell) -> None:
        self._num_wanted, self._copies, self._tell = num_wanted, copies, tell
        self.num_kept = self._num_bytes = 0
        self._told_s = time.monotonic()
        tell(f"images to fetch: {num_wanted:,}, into {copies.directory}")

    def keep(self, address: Address, content: bytes) -> None:
        self._copies.add(address.url, content)
        self.num_kept += 1
        self._num_bytes += len(content)
        if time.monotonic() - self._told_s > NEWS_S:
            self._told_s = time.monotonic()
            self.end()

    def end(self) -> None:
        size = format_bytes(self._num_bytes)
        self._tell(f"images fetched: {self.num_kept:,} of {self._num_wanted:,}, {size}")


def _not_fetched(faults: list[_Fault], help: tuple[str, ...], *notes: str) -> Diagnostic:
    first, *others = [
        f"the row at `{fault.location}` {printable(fault.reason, MAX_REASON)}" for fault in faults
    ]
    return error(
        "GK496",
        first,
        faults[0].key,
        label=f"{len(faults):,} images cannot be fetched" if others else "it cannot be fetched",
        notes=(*others, *notes),
        help=(*help, "give the row an image that is there, or leave it out"),
    )
