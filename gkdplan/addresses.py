"""Addresses of images on the web, and the hosts from which a plan lets them be fetched."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import quote, urljoin

HOST = r"^([a-z0-9_]([a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?$"
"""How a plan spells a host: in lower case, with its port where that is not the scheme's own."""
PORTS = {"http": 80, "https": 443}
_ADDRESS = re.compile(r"(https?)://([^/?#]*)([^#]*)", re.IGNORECASE | re.DOTALL)
_LARGEST_PORT = 65535
_UNQUOTED = "%/?:@!$&'()*+,;=~"


class AddressError(Exception):
    """Why a text is no address: it completes a sentence that begins with the address."""


@dataclass(frozen=True, slots=True)
class Address:
    """Of http or https: a host in lower case, a port, and what is asked for there, quoted."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def url(self) -> str:
        """The one spelling of it, without what a browser alone reads (`#...`)."""
        return f"{self.scheme}://{self.site}{self.target}"

    @property
    def site(self) -> str:
        """The host as a plan spells it."""
        is_usual = self.port == PORTS[self.scheme]
        return self.host if is_usual else f"{self.host}:{self.port}"

    def is_on(self, hosts: Collection[str]) -> bool:
        """Whether it is on one of them. A host without a port has the scheme's own alone."""
        return self.site in hosts or f"{self.host}:{self.port}" in hosts

    def followed(self, location: str) -> "Address":
        """Where it sends one to. Raises AddressError."""
        return parse_address(urljoin(self.url, location))


def is_address(text: str) -> bool:
    """Whether it begins as one of http or https."""
    return _ADDRESS.match(text) is not None


def parse_address(text: str) -> Address:
    """Raises AddressError where it is none, or names a user: nothing is read in two ways."""
    found = _ADDRESS.match(text)
    if found is None:
        raise AddressError("is no address of http or https")
    scheme, site, rest = found[1].lower(), found[2].lower(), found[3]
    if "@" in site:
        raise AddressError("names a user before its host")
    if not is_host(site):
        raise AddressError("has no host in letters, digits, dots and hyphens")
    host, port = _split(site)
    target = rest if rest.startswith("/") else f"/{rest}"
    return Address(
        scheme, host, port or PORTS[scheme], quote(target, safe=_UNQUOTED, errors="replace")
    )


def is_host(text: str) -> bool:
    """Whether a plan may spell a host so."""
    if re.fullmatch(HOST, text) is None:
        return False
    port = _split(text)[1]
    return port is None or 0 < port <= _LARGEST_PORT


def host_in(text: str) -> str | None:
    """The host that somebody meant who wrote an address, or upper case, in its place."""
    site = re.sub(r"^[a-z]+://", "", text.strip().lower()).partition("/")[0]
    return site if is_host(site) else None


def _split(site: str) -> tuple[str, int | None]:
    """A host and its port, as far as it has one."""
    host, colon, port = site.rpartition(":")
    return (host, int(port)) if colon and not site.endswith("]") else (site, None)
