"""Addresses are read in one way, and are on a host that is allowed or are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkdplan.addresses import AddressError, host_in, is_address, is_host, parse_address

SPELLINGS = {
    "https://Images.Example.org/a b.png?x=1#y": "https://images.example.org/a%20b.png?x=1",
    "HTTP://host": "http://host/",
    "http://host:80/é%20": "http://host/%C3%A9%20",
    "https://host:8443?x": "https://host:8443/?x",
    "http://[::1]:8000/x": "http://[::1]:8000/x",
    "http://host/a\r\nX: y": "http://host/a%0D%0AX:%20y",
}


@pytest.mark.parametrize("text", SPELLINGS)
def test_an_address_has_one_spelling(text):
    found = parse_address(text)
    assert found.url == SPELLINGS[text]
    assert parse_address(found.url) == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http://me:secret@host/", "names a user"),
        ("http://allowed\\@other/", "names a user"),
        ("http://allowed\\other/", "has no host"),
        ("http://allowed\tother/", "has no host"),
        ("http:///a.png", "has no host"),
        ("http://host:99999/", "has no host"),
        ("http://hóst/", "has no host"),
        ("ftp://host/a.png", "is no address"),
        ("a.png", "is no address"),
    ],
)
def test_what_could_be_read_in_two_ways_is_none(text, reason):
    with pytest.raises(AddressError, match=reason):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "hosts", "is_allowed"),
    [
        ("https://a.org/x", ("a.org",), True),
        ("http://A.ORG/x", ("a.org",), True),
        ("http://a.org:80/x", ("a.org",), True),
        ("http://a.org/x", ("a.org:80",), True),
        ("https://a.org/x", ("a.org:80",), False),
        ("http://a.org:8000/x", ("a.org",), False),
        ("http://a.org:8000/x", ("a.org:8000",), True),
        ("http://b.a.org/x", ("a.org",), False),
        ("http://a.org.evil/x", ("a.org",), False),
        ("http://evil/a.org", ("a.org",), False),
        ("http://a.org/x", (), False),
    ],
)
def test_a_host_is_allowed_as_it_is_named(text, hosts, is_allowed):
    assert parse_address(text).is_on(hosts) is is_allowed


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("b.png", "https://host:8000/x/b.png"),
        ("/b", "https://host:8000/b"),
        ("//other/b", "https://other/b"),
        ("http://other:80/b c", "http://other/b%20c"),
        ("?y", "https://host:8000/x/a.png?y"),
    ],
)
def test_a_redirect_is_an_address(location, url):
    assert parse_address("https://host:8000/x/a.png").followed(location).url == url


def test_hosts_are_spelt_in_lower_case_with_a_port_that_there_is():
    for host in ("a.org", "a-b.org:8000", "localhost", "10.0.0.1:1", "[::1]", "[::1]:8000"):
        assert is_host(host)
    for other in ("", "A.org", "*.a.org", "a.org/", "http://a.org", "a.org:0", "a.org:70000", "a:"):
        assert not is_host(other)
    assert host_in("https://A.org:8000/x") == "a.org:8000"
    assert host_in("*.a.org") is None


@given(st.text())
def test_no_text_is_read_as_two_hosts(text):
    """What is parsed again is the same, so that what is checked is what is asked for."""
    for address in (text, f"http://{text}", f"https://allowed{text}"):
        try:
            found = parse_address(address)
        except AddressError:
            continue
        assert is_address(address)
        assert parse_address(found.url) == found
        assert found.url.isascii()
        assert found.url.isprintable()
        assert " " not in found.url
