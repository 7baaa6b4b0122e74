"""Which heads are let in, without any socket."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockwatch.web.guard import GuardedConnection, Limits, Rejected

HEAD = b"GET /metrics HTTP/1.1\r\nHost: a\r\n"


def refusal_of(data: bytes, limits: Limits | None = None) -> tuple[int, Rejected] | None:
    """Status and reason, `None` if the first request is let in or incomplete."""
    connection = GuardedConnection(limits or Limits())
    connection.receive_data(data)
    try:
        connection.next_event()
    except h11.RemoteProtocolError:
        return connection.refusal.status.value, connection.refusal.rejected
    return None


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        HEAD + b"Content-Length: 0\r\n\r\n",
        HEAD + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
        HEAD + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        HEAD + b"X: \xff\xfe\r\n\r\n",
        b"GET /?" + b"q" * 2000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        HEAD + b"".join(b"X-%d: v\r\n" % n for n in range(99)) + b"\r\n",
        HEAD + b"X: " + b"v" * 8000 + b"\r\n\r\n",
    ],
    ids=lambda head: repr(head[:60]),
)
def test_requests_without_body_and_within_bounds_are_let_in(head: bytes) -> None:
    assert refusal_of(head) is None


MALFORMED = (400, Rejected.MALFORMED)
BODY = (400, Rejected.BODY)
TOO_LARGE = (431, Rejected.TOO_LARGE)


@pytest.mark.parametrize(
    ("head", "refusal"),
    [
        (b"GET /\r\n\r\n", MALFORMED),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", MALFORMED),
        (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", MALFORMED),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", MALFORMED),
        (b"\r\n\r\n\r\n\r\n", MALFORMED),
        (b"GET /metrics HTTP/1.1\r\n\r\n", MALFORMED),
        (b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", MALFORMED),
        (HEAD + b"Bad Header: x\r\n\r\n", MALFORMED),
        (HEAD + b"X : space before the colon\r\n\r\n", MALFORMED),
        (HEAD + b"X: a\x00b\r\n\r\n", MALFORMED),
        (HEAD + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n", MALFORMED),
        (HEAD + b"Content-Length: -1\r\n\r\n", MALFORMED),
        (HEAD + b"Content-Length: +5\r\n\r\n", MALFORMED),
        (HEAD + b"Content-Length: 0x5\r\n\r\n", MALFORMED),
        (HEAD + b"Content-Length: 5\r\n\r\nhello", BODY),
        (HEAD + b"Content-Length: 5, 5\r\n\r\nhello", BODY),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BODY),
        (HEAD + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BODY),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", (501, Rejected.MALFORMED)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", (405, Rejected.BODY)),
        (b"GET /" + b"x" * 2048 + b" HTTP/1.1\r\nHost: a\r\n\r\n", (414, Rejected.TOO_LARGE)),
        (HEAD + b"".join(b"X-%d: v\r\n" % n for n in range(100)) + b"\r\n", TOO_LARGE),
        (HEAD + b"X: " + b"v" * 9000 + b"\r\n\r\n", TOO_LARGE),
        (HEAD + b"Unfinished: " + b"v" * 9000, TOO_LARGE),
        (b"G" * 9000, TOO_LARGE),
    ],
    ids=lambda value: repr(value[:60]) if isinstance(value, bytes) else "",
)
def test_everything_else_is_refused_with_a_reason(
    head: bytes, refusal: tuple[int, Rejected]
) -> None:
    assert refusal_of(head) == refusal


def test_what_follows_a_refused_head_is_never_parsed() -> None:
    connection = GuardedConnection(Limits())
    connection.receive_data(HEAD + b"Content-Length: 9\r\n\r\n" + HEAD + b"\r\n")
    with pytest.raises(h11.RemoteProtocolError):
        connection.next_event()
    assert not isinstance(connection.next_event(), h11.Request)


@given(st.binary() | st.binary().map(lambda rest: HEAD + rest + b"\r\n\r\n"))
def test_any_bytes_are_let_in_or_refused(data: bytes) -> None:
    refusal_of(data)
