"""Images from the hosts that a plan allows: many at once, each within its limits, or the reason."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2

from gkdplan import __version__
from gkdplan.addresses import Address, AddressError
from gkdplan.pictures import FORMATS, PictureLimits, is_known
from gkdplan.text import printable
from gkdplan.units import format_bytes

NUM_AT_ONCE = 16
MOST_REDIRECTS = 5
MOST_FAILURES = 100
"""Enough to see why."""
CONNECT_S, SILENCE_S, WHOLE_S = 10.0, 30.0, 120.0
"""In which a host has to take a connection, to send something more, and to send all of an image."""
PAUSES_S = (1.0, 4.0)
"""Before an address is asked for again, of a host that failed in a way that may pass."""
LONGEST_PAUSE_S = 60.0
"""However long a host asks one to wait."""
_REDIRECTS = (301, 302, 303, 307, 308)
_MAY_PASS = (408, 425, 429)
_FIRST_FAULT_OF_A_HOST = 500

Keep = Callable[[Address, bytes], None]


class FetchError(Exception):
    """Why an address gives no image: the text completes a sentence that begins with it."""


class PassingError(FetchError):
    """What may be otherwise a moment later, for which the host may ask one to wait `pause_s`."""

    def __init__(self, words: str, pause_s: float = 0.0) -> None:
        super().__init__(words)
        self.pause_s = pause_s


@dataclass(frozen=True, slots=True)
class Failure:
    """An address without an image, and why."""

    address: Address
    reason: str


def fetch(addresses: Iterable[Address], limits: PictureLimits, keep: Keep) -> list[Failure]:
    """Hand what each address gives to `keep`, as it comes; those that give no image are returned,
    and after MOST_FAILURES of them no more is asked for.

    Neither proxies, nor credentials, nor cookies of this machine's are used.
    """
    return asyncio.run(_fetch(iter(addresses), limits, keep))


async def _fetch(addresses: Iterator[Address], limits: PictureLimits, keep: Keep) -> list[Failure]:
    failures: list[Failure] = []
    async with _client() as client:
        tasks = (_work(client, addresses, limits, keep, failures) for _ in range(NUM_AT_ONCE))
        await asyncio.gather(*tasks)
    return failures


async def _work(
    client: httpx2.AsyncClient,
    addresses: Iterator[Address],
    limits: PictureLimits,
    keep: Keep,
    failures: list[Failure],
) -> None:
    """One after the other of those that no other task has taken."""
    for address in addresses:
        try:
            content = await _patiently(client, address, limits)
        except FetchError as failure:
            failures.append(Failure(address, str(failure)))
        else:
            keep(address, content)
        if len(failures) >= MOST_FAILURES:
            return


def _client() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        headers={
            "User-Agent": f"gkdplan/{__version__}",
            "Accept": "image/*",
            "Accept-Encoding": "identity",
        },
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        timeout=httpx2.Timeout(SILENCE_S, connect=CONNECT_S, pool=None),
        verify=httpx2.create_ssl_context(),
        trust_env=False,
    )


async def _patiently(client: httpx2.AsyncClient, address: Address, limits: PictureLimits) -> bytes:
    """Raises FetchError once trying again is of no use."""
    for pause_s in PAUSES_S:
        try:
            return await _in_time(client, address, limits)
        except PassingError as failure:
            await asyncio.sleep(max(pause_s, failure.pause_s))
    return await _in_time(client, address, limits)


async def _in_time(client: httpx2.AsyncClient, address: Address, limits: PictureLimits) -> bytes:
    try:
        async with asyncio.timeout(WHOLE_S):
            return await _followed(client, address, limits)
    except TimeoutError:
        raise PassingError(f"has not sent all of it in {WHOLE_S:.0f} s") from None
    except httpx2.ConnectTimeout as failure:
        raise PassingError(f"takes no connection in {CONNECT_S:.0f} s") from failure
    except httpx2.TimeoutException as failure:
        raise PassingError(f"has sent nothing for {SILENCE_S:.0f} s") from failure
    except httpx2.HTTPError as failure:
        raise PassingError(f"gives no whole answer: {_words(failure)}") from failure
    except httpx2.InvalidURL as failure:
        raise FetchError(f"cannot be asked for: {_words(failure)}") from failure


async def _followed(client: httpx2.AsyncClient, address: Address, limits: PictureLimits) -> bytes:
    """What it gives, or where it sends one to, on hosts that the limits allow."""
    for _ in range(1 + MOST_REDIRECTS):
        async with client.stream("GET", address.url) as answer:
            if answer.status_code not in _REDIRECTS:
                return await _body(answer, limits)
            address = _next(address, answer.headers.get("Location", ""), limits)
    raise FetchError(f"sends one on more than {MOST_REDIRECTS} times")


def _next(address: Address, location: str, limits: PictureLimits) -> Address:
    try:
        following = address.followed(location)
    except (AddressError, ValueError) as failure:
        raise FetchError(f"sends one on to `{printable(location)}`, which {failure}") from failure
    if not following.is_on(limits.hosts):
        raise FetchError(
            f"sends one on to `{following.site}`, which `data.image_hosts` does not name"
        )
    if (address.scheme, following.scheme) == ("https", "http"):
        raise FetchError("sends one on from https to http")
    return following


async def _body(answer: httpx2.Response, limits: PictureLimits) -> bytes:
    """No more than the limits allow is taken, whatever the answer says of its length."""
    status = answer.status_code
    if status >= _FIRST_FAULT_OF_A_HOST or status in _MAY_PASS:
        raise PassingError(f"answers {status}", _pause_asked_for(answer))
    if status != httpx2.codes.OK:
        raise FetchError(f"answers {status}")
    encoding = answer.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise FetchError(f"sends it packed (`{printable(encoding)}`), which was not asked for")
    content = bytearray()
    async for piece in answer.aiter_raw():
        content += piece
        if len(content) > limits.num_bytes:
            most = format_bytes(limits.num_bytes)
            raise FetchError(f"sends more than `data.max_image_bytes`, {most}")
    if not is_known(bytes(content[:16])):
        kind = printable(answer.headers.get("Content-Type", "nothing"))
        raise FetchError(f"sends what is none of {', '.join(FORMATS)}, and says `{kind}`")
    return bytes(content)


def _pause_asked_for(answer: httpx2.Response) -> float:
    """Seconds, where it says them as a number (RFC 9110, section 10.2.3)."""
    said = answer.headers.get("Retry-After", "")
    is_number = said.isascii() and said.isdigit() and len(said) < 10
    return min(float(said), LONGEST_PAUSE_S) if is_number else 0.0


def _words(failure: Exception) -> str:
    return printable(" ".join(str(failure).split())) or type(failure).__name__
