"""What hosts answer, from one that behaves to one that does not."""

import threading
import time

import image_host
import pytest
from image_host import PNG, ImageHost, after, image, redirect, status

from gkdplan.addresses import parse_address
from gkdplan.pictures import PictureLimits
from gkdplan.runtime.data.cache import fetching

LIMIT = 2**16


@pytest.fixture
def host():
    with image_host.image_host() as host:
        yield host


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(fetching, "PAUSES_S", (0.01, 0.02))


def fetched(host: ImageHost, *paths: str, hosts: tuple[str, ...] = ()):
    """The contents by path, and the reasons of what gave none."""
    limits = PictureLimits(num_bytes=LIMIT, hosts=(host.site, *hosts))
    kept: dict[str, bytes] = {}
    failures = fetching.fetch(
        [parse_address(host.url(path)) for path in paths],
        limits,
        lambda address, content: kept.update({address.target: content}),
    )
    return kept, {failure.address.target: failure.reason for failure in failures}


def test_many_are_fetched_at_once_and_asked_for_as_what_they_are(host, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    contents = {f"/{n}.png": PNG + bytes([n]) for n in range(2 * fetching.NUM_AT_ONCE)}
    all_at_once = threading.Barrier(fetching.NUM_AT_ONCE, timeout=20)

    def together(content: bytes):
        return lambda handler: (all_at_once.wait(), handler.send(content))

    host.answers = {path: together(content) for path, content in contents.items()}
    assert fetched(host, *contents) == (contents, {})
    assert sorted(host.asked) == sorted(contents)
    said = host.headers[0]
    assert said["User-Agent"].startswith("gkdplan/")
    assert said["Accept-Encoding"] == "identity"
    assert not {"Cookie", "Authorization"} & {*said}


FAULTS = {
    "status": (status(404), "answers 404", 1),
    "forbidden": (status(403), "answers 403", 1),
    "no content": (status(204), "answers 204", 1),
    "busy": (status(429), "answers 429", 3),
    "broken": (status(500), "answers 500", 3),
    "page": (image_host.page, "none of PNG, JPEG, GIF, BMP, WEBP, and says `text/html`", 1),
    "empty": (image(b""), "sends what is none of PNG", 1),
    "packed": (image_host.packed, "sends it packed (`gzip`)", 1),
    "large": (image(PNG + bytes(LIMIT)), "more than `data.max_image_bytes`, 64.0 KiB", 1),
    "endless": (image_host.endless, "more than `data.max_image_bytes`, 64.0 KiB", 1),
    "overstated": (image_host.overstated, "gives no whole answer: peer closed connection", 3),
    "lost": (image_host.no_redirect, "sends one on more than 5 times", 6),
    "loop": (redirect("/a.png", 301), "sends one on more than 5 times", 6),
    "elsewhere": (
        redirect("http://169.254.169.254/latest"),
        "sends one on to `169.254.169.254`, which `data.image_hosts` does not name",
        1,
    ),
    "another port": (redirect("//127.0.0.1:9/a.png", 307), "to `127.0.0.1:9`, which", 1),
    "a file": (redirect("file:///etc/passwd"), "which is no address of http or https", 1),
    "a user": (redirect("http://a:b@127.0.0.1/"), "which names a user before its host", 1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_image_says_why_and_is_asked_for_again_where_that_may_help(host, fault):
    host.answers["/a.png"], reason, num_asked = FAULTS[fault]
    kept, reasons = fetched(host, "/a.png")
    assert not kept
    assert reason in reasons["/a.png"]
    assert len(host.asked) == num_asked


@pytest.mark.parametrize(
    ("limit", "slow", "reason"),
    [
        ("SILENCE_S", image_host.silent, "has sent nothing for 0 s"),
        ("WHOLE_S", image_host.dripping, "has not sent all of it in 0 s"),
    ],
)
def test_a_host_that_is_slow_is_waited_for_so_long(host, limit, slow, reason, monkeypatch):
    monkeypatch.setattr(fetching, limit, 0.4)
    host.answers["/a.png"] = slow
    assert fetched(host, "/a.png") == ({}, {"/a.png": reason})
    deadline = time.monotonic() + 20
    while len(host.asked) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(host.asked) == 3


def test_no_more_is_taken_than_an_answer_says(host):
    host.answers["/a.png"] = image_host.understated
    assert fetched(host, "/a.png") == ({"/a.png": PNG}, {})


@pytest.mark.parametrize("broken", [status(503), image_host.overstated])
def test_what_passes_is_waited_for(host, broken):
    host.answers["/a.png"] = after(2, broken, image())
    assert fetched(host, "/a.png") == ({"/a.png": PNG}, {})
    assert len(host.asked) == 3


@pytest.mark.parametrize(("asked_for", "least_s"), [("3600", 0.5), ("soon", 0), ("9" * 5000, 0)])
def test_a_host_that_asks_one_to_wait_is_given_time(host, asked_for, least_s, monkeypatch):
    monkeypatch.setattr(fetching, "LONGEST_PAUSE_S", 0.5)
    host.answers["/a.png"] = after(
        1, lambda handler: handler.send(b"", 429, Retry_After=asked_for), image()
    )
    began_s = time.monotonic()
    assert fetched(host, "/a.png") == ({"/a.png": PNG}, {})
    assert time.monotonic() - began_s >= least_s


def test_a_redirect_to_a_host_that_is_allowed_is_followed(host):
    with image_host.image_host() as other:
        host.answers["/a.png"] = redirect(other.url("/one"), 308)
        other.answers = {"/one": redirect("two?x=1"), "/two": image()}
        assert fetched(host, "/a.png", hosts=(other.site,)) == ({"/a.png": PNG}, {})
        assert other.asked == ["/one", "/two?x=1"]


def test_https_is_never_left_for_http():
    limits = PictureLimits(hosts=("a.org",))
    with pytest.raises(fetching.FetchError, match="from https to http"):
        fetching._next(parse_address("https://a.org/"), "http://a.org/", limits)
    assert fetching._next(parse_address("http://a.org/"), "https://a.org/", limits).port == 443


def test_a_host_that_is_not_there_and_a_name_of_none_are_named(host):
    limits = PictureLimits(hosts=("127.0.0.1:9", "a..b"))
    addresses = [parse_address(f"http://{site}/a.png") for site in limits.hosts]
    failures = fetching.fetch(addresses, limits, lambda *_: pytest.fail("nothing is there"))
    reasons = {failure.address.host: failure.reason for failure in failures}
    assert reasons["127.0.0.1"].startswith("gives no whole answer: ")
    assert len(reasons) == 2


def test_after_so_many_failures_no_more_is_asked_for(host, monkeypatch):
    monkeypatch.setattr(fetching, "MOST_FAILURES", 5)
    _, reasons = fetched(host, *(f"/{n}.png" for n in range(100)))
    assert 5 <= len(reasons) <= 5 + fetching.NUM_AT_ONCE


def test_a_disk_that_is_full_is_not_taken_for_the_hosts_fault(host):
    host.answers["/a.png"] = image()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fetching.fetch([parse_address(host.url("/a.png"))], PictureLimits(hosts=(host.site,)), full)
