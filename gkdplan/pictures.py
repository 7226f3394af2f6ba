"""A picture of a row: where it lies, and what a plan lets it be."""

import base64
import binascii
import os
import re
import stat
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256

from gkdplan.addresses import Address, AddressError, parse_address
from gkdplan.units import format_bytes

_MAGIC = {
    "PNG": b"\x89PNG\r\n\x1a\n",
    "JPEG": b"\xff\xd8\xff",
    "GIF": b"GIF8",
    "BMP": b"BM",
    "WEBP": b"RIFF",
}
FORMATS = tuple(_MAGIC)
_USER = re.compile(r"//[^/?#]*@")


class PictureError(Exception):
    """Why a row's pictures cannot be used: the text completes a sentence that begins with the
    row."""


class ForbiddenHostError(PictureError):
    """A picture's address is on a host, `site`, that the plan does not allow."""

    def __init__(self, words: str, site: str) -> None:
        super().__init__(words)
        self.site = site


class NotFetchedError(PictureError):
    """A picture's address is allowed, and there is no copy of what it gives."""


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What a row may show: pictures, bytes of a picture's file, and pixels of a picture; and the
    `hosts` of the addresses that it may name."""

    number: int = 8
    num_bytes: int = 20 * 2**20
    num_pixels: int = 50_000_000
    hosts: tuple[str, ...] = ()


USUAL_LIMITS = PictureLimits()
"""Those of a plan that sets none."""
NUM_HOSTS_SHOWN = 20


def hosts_to_name(limits: PictureLimits, forbidden: Collection[str]) -> str:
    """What to write in a plan so that it allows other hosts too: help for a finding."""
    hosts = sorted({*limits.hosts, *forbidden})
    named = ", ".join(f'"{host}"' for host in hosts[:NUM_HOSTS_SHOWN])
    more = ", ..." if hosts[NUM_HOSTS_SHOWN:] else ""
    return f"let a run fetch images from there: `image_hosts = [{named}{more}]` in `[data]`"


@dataclass(frozen=True, slots=True)
class Picture:
    """A file, by its path from the working directory; base64 text of one; or an address, with the
    path of the copy of what it gave, once that was fetched, and the copy's sha256."""

    path: str | None = None
    base64: str | None = None
    address: str | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        """For messages, which show nobody's password."""
        place = _USER.sub("//...@", self.address) if self.address else self.path
        return "an image in base64" if place is None else f"the image `{place}`"

    def read(self, limits: PictureLimits) -> bytes:
        """The bytes of the file. Raises PictureError where it is none, or exceeds the limits; for
        an address ForbiddenHostError and NotFetchedError."""
        if self.address is not None:
            self.require_allowed(limits)
        if self.base64 is not None:
            content = self._decoded(self.base64, limits)
        elif self.path is not None:
            content = self._read(self.path, limits)
        else:
            raise NotFetchedError(f"has {self.name}, which was not fetched")
        if self.sha256 not in (None, sha256(content).hexdigest()):
            raise PictureError(f"has {self.name}, whose copy `{self.path}` has changed")
        self._require_format(content)
        return content

    def check(self, limits: PictureLimits) -> None:
        """As `read`, of a file no more than its beginning, of an address the host alone."""
        if self.address is not None:
            self.require_allowed(limits)
            return
        if self.path is None:
            self.read(limits)
            return
        self._check_size(self.path, limits)
        try:
            with open(self.path, "rb") as file:
                beginning = file.read(16)
        except OSError as failure:
            raise self._unreadable(failure) from failure
        self._require_format(beginning)

    def require_allowed(self, limits: PictureLimits) -> Address:
        """The address of one that has one. Raises PictureError where it is none, and
        ForbiddenHostError where its host is not among those of the limits."""
        assert self.address is not None
        try:
            address = parse_address(self.address)
        except AddressError as failure:
            raise PictureError(f"has {self.name}, which {failure}") from failure
        if not address.is_on(limits.hosts):
            words = f"has {self.name}, and `data.image_hosts` does not name `{address.site}`"
            raise ForbiddenHostError(words, address.site)
        return address

    def _require_format(self, content: bytes) -> None:
        if not is_known(content):
            raise PictureError(f"has {self.name}, which is none of {', '.join(FORMATS)}")

    def _read(self, path: str, limits: PictureLimits) -> bytes:
        self._check_size(path, limits)
        try:
            with open(path, "rb") as file:
                return file.read(limits.num_bytes)
        except OSError as failure:
            raise self._unreadable(failure) from failure

    def _check_size(self, path: str, limits: PictureLimits) -> None:
        if "://" in path:
            raise PictureError(f"has {self.name}, and addresses are of http or https")
        try:
            status = os.stat(path)
        except (OSError, ValueError) as failure:
            raise self._unreadable(failure) from failure
        if not stat.S_ISREG(status.st_mode):
            raise PictureError(f"has {self.name}, which is no file")
        self._fit(status.st_size, limits)

    def _decoded(self, text: str, limits: PictureLimits) -> bytes:
        self._fit(len(text) * 3 // 4, limits)
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as failure:
            raise PictureError(f"has {self.name} that is no base64") from failure

    def _fit(self, num_bytes: int, limits: PictureLimits) -> None:
        if num_bytes > limits.num_bytes:
            raise PictureError(
                f"has {self.name} of {format_bytes(num_bytes)}, and `data.max_image_bytes` is "
                f"{format_bytes(limits.num_bytes)}"
            )

    def _unreadable(self, failure: Exception) -> PictureError:
        reason = getattr(failure, "strerror", None) or type(failure).__name__
        return PictureError(f"has {self.name}, which cannot be read: {reason.lower()}")


def is_known(content: bytes) -> bool:
    """Whether a file of one of the formats begins so."""
    return content.startswith(tuple(_MAGIC.values()))
