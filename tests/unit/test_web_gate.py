"""What the web configuration file asks of requests, over real connections."""

import contextlib
import time
from pathlib import Path

import bcrypt
import pytest
from http_client import (
    GET,
    Served,
    Shelf,
    basic,
    eventually,
    one_reply,
    request,
    serving,
    status_of,
)
from hypothesis import given
from hypothesis import strategies as st

from sockwatch.web.gate import credentials
from sockwatch.web.guard import Limits, Rejected
from sockwatch.web.protection import Protection

HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
USERS = f"basic_auth_users:\n  prometheus: {HASH}\n"
RIGHT = basic("prometheus", "secret")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "web.yml"


def protection(file: Path, text: str = USERS) -> Protection:
    file.write_text(text)
    return Protection(str(file))


# Passwords


EVERY_PATH = (
    "/",
    "/metrics",
    "/-/healthy",
    "/-/ready",
    "/static/style.css",
    "/api/v1/snapshot",
    "/nothing",
)


@pytest.mark.parametrize("path", EVERY_PATH)
def test_without_a_password_nothing_is_told(file: Path, path: str) -> None:
    shelf = Shelf()
    with serving(shelf, protection=protection(file)) as served:
        answer = served.get(path)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'Basic realm="sockwatch", charset="UTF-8"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.text == "A name and a password are needed here.\n"
    assert served.rejected() == {Rejected.AUTHENTICATION: 1}
    assert not shelf.renderings


@pytest.mark.parametrize("path", EVERY_PATH)
def test_with_the_right_one_it_is_as_without_protection(file: Path, path: str) -> None:
    with serving() as served:
        open_status = served.get(path).status
    with serving(protection=protection(file)) as served:
        assert served.get(path, authorization=RIGHT).status == open_status
        assert served.rejected() == {}


@pytest.mark.parametrize(
    "given_one",
    [
        basic("prometheus", "Secret"),
        basic("root", "secret"),
        basic("prometheus", "secret") + "x",
        basic("prometheus", "secret").replace("Basic", "Bearer"),
        "Basic",
        "Basic !!!!",
        "Basic cHJvbWV0aGV1cw==",
        "",
        "secret",
    ],
)
def test_anything_else_is_refused(file: Path, given_one: str) -> None:
    with serving(protection=protection(file)) as served:
        assert served.get("/metrics", authorization=given_one).status == 401


def test_the_scheme_may_be_written_in_any_case(file: Path) -> None:
    with serving(protection=protection(file)) as served:
        assert served.get("/metrics", authorization=RIGHT.replace("Basic", "bAsIc")).status == 200


def test_who_gives_two_pairs_is_refused(file: Path) -> None:
    """A proxy may look at the other one."""
    head = GET[:-2] + f"Authorization: {RIGHT}\r\n".encode() * 2 + b"\r\n"
    with serving(protection=protection(file)) as served, served.connect() as client:
        client.sendall(head)
        assert status_of(one_reply(client)) == 401


def test_names_and_passwords_may_have_any_letters(file: Path) -> None:
    password = "pä:ss\N{SNOWMAN}"  # noqa: S105  nobody's
    made = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    with serving(protection=protection(file, f"basic_auth_users:\n  jürgen: {made}\n")) as served:
        assert served.get("/metrics", authorization=basic("jürgen", password)).status == 200


def test_a_connection_may_ask_again_with_a_password(file: Path) -> None:
    with (
        serving(protection=protection(file)) as served,
        contextlib.closing(served.client()) as client,
    ):
        assert request(client, "/metrics").status == 401
        port = client.sock.getsockname()[1]
        assert request(client, "/metrics", authorization=RIGHT).status == 200
        assert client.sock.getsockname()[1] == port


def test_one_password_does_not_open_the_connection(file: Path) -> None:
    with (
        serving(protection=protection(file)) as served,
        contextlib.closing(served.client()) as client,
    ):
        assert request(client, "/metrics", authorization=RIGHT).status == 200
        assert request(client, "/metrics").status == 401


def test_to_head_the_refusal_has_no_body(file: Path) -> None:
    with serving(protection=protection(file)) as served:
        answer = served.get("/metrics", "HEAD")
    assert (answer.status, answer.body) == (401, b"")


def test_who_has_authenticated_may_see_details_from_anywhere(file: Path) -> None:
    with serving(protection=protection(file)) as served:
        for path in ("/", "/api/v1/leaks"):
            elsewhere = {"authorization": RIGHT, "host": "watched.example", "via": "1.1 proxy"}
            assert served.get(path, **elsewhere).status == 200


def test_without_users_details_are_for_this_host_still(file: Path) -> None:
    """Whatever the client claims to be."""
    with serving(protection=protection(file, "rate_limit: {interval: 1ms, burst: 100}")) as served:
        assert served.get("/", host="watched.example", authorization=RIGHT).status == 403
        assert served.get("/").status == 200


def test_wrong_passwords_at_speed_are_put_off(file: Path) -> None:
    """The check of one takes 16 ms of the client's allowance."""
    made = bcrypt.hashpw(b"secret", bcrypt.gensalt(8)).decode()
    text = f"basic_auth_users:\n  prometheus: {made}\n"
    with serving(protection=protection(file, text)) as served:
        assert served.get("/metrics", authorization=RIGHT).status == 200
        statuses = guess_until_put_off(served)
        assert set(statuses) == {401, 429}
        start = time.monotonic()
        for number in range(100):
            served.get("/metrics", authorization=basic("prometheus", f"more {number}"))
        assert time.monotonic() - start < 3.0
        assert served.get("/metrics", authorization=RIGHT).status == 200
        assert served.server.rejected[Rejected.RATE] > 50


def guess_until_put_off(served: Served) -> list[int]:
    statuses: list[int] = []
    while 429 not in statuses and len(statuses) < 500:
        wrong = basic("prometheus", f"wrong {len(statuses)}")
        statuses.append(served.get("/metrics", authorization=wrong).status)
    return statuses


def test_checks_under_way_do_not_hold_up_the_end(file: Path) -> None:
    made = bcrypt.hashpw(b"secret", bcrypt.gensalt(13)).decode()
    with serving(
        protection=protection(file, f"basic_auth_users:\n  prometheus: {made}\n")
    ) as served:
        with served.connect() as client:
            client.sendall(GET[:-2] + f"Authorization: {RIGHT}\r\n\r\n".encode())
            assert eventually(lambda: served.server.requests_in_flight == 1)
        start = time.monotonic()
    assert time.monotonic() - start < 1.0


# Rates and headers


def test_requests_beyond_the_rate_are_put_off(file: Path) -> None:
    limited = protection(file, "rate_limit:\n  interval: 300ms\n  burst: 3\n")
    with serving(protection=limited) as served:
        answers = [served.get("/metrics") for _ in range(5)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
        assert answers[-1].headers["retry-after"] == "1"
        assert served.rejected() == {Rejected.RATE: 2}
        time.sleep(0.35)
        assert [served.get("/metrics").status for _ in range(2)] == [200, 429]


def test_the_rate_counts_before_the_password(file: Path) -> None:
    limited = protection(file, USERS + "rate_limit:\n  interval: 1m\n  burst: 1\n")
    with serving(protection=limited) as served:
        assert served.get("/metrics").status == 401
        assert served.get("/metrics", authorization=RIGHT).status == 429


HEADERS = """\
http_server_config:
  headers:
    Strict-Transport-Security: max-age=3600
    X-Frame-Options: sameorigin
    Content-Security-Policy:
"""


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/metrics", 200), ("/nothing", 404)])
def test_headers_are_added_replaced_and_taken_away(file: Path, path: str, status: int) -> None:
    with serving(protection=protection(file, HEADERS)) as served:
        answer = served.get(path)
    assert answer.status == status
    assert answer.headers["strict-transport-security"] == "max-age=3600"
    assert answer.headers["x-frame-options"] == "sameorigin"
    assert "content-security-policy" not in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_refusal_has_them_too(file: Path) -> None:
    with serving(protection=protection(file, HEADERS + USERS)) as served:
        assert served.get("/").headers["strict-transport-security"] == "max-age=3600"


def test_nothing_is_said_of_strict_transport_unless_asked_for(file: Path) -> None:
    with serving(protection=protection(file)) as served:
        answers = [served.get("/metrics"), served.get("/metrics", authorization=RIGHT)]
    assert not any("strict-transport-security" in answer.headers for answer in answers)


def test_a_file_that_asks_for_nothing_changes_nothing(file: Path) -> None:
    with serving() as served:
        plain = served.get("/metrics")
    with serving(protection=protection(file, "")) as served:
        other = served.get("/metrics")
    assert (plain.status, plain.headers.keys()) == (other.status, other.headers.keys())


# Without a connection


@given(st.binary())
def test_any_credentials_are_read_or_none(value: bytes) -> None:
    found = credentials([(b"authorization", value)])
    assert found is None or isinstance(found[0], str)


@given(st.text(st.characters(exclude_characters=":", exclude_categories=["Cs"])), st.text())
def test_what_a_client_gives_is_what_is_checked(user: str, password: str) -> None:
    encoded = password.encode(errors="replace").decode()
    header = (b"authorization", basic(user, encoded).encode())
    assert credentials([(b"host", b"a"), header]) == (user, encoded.encode())


def test_a_response_that_is_turned_away_keeps_to_the_limits(file: Path) -> None:
    with serving(protection=protection(file), limits=Limits(idle=0.1)) as served:
        with served.connect() as client:
            client.sendall(GET)
            assert status_of(one_reply(client)) == 401
            assert client.recv(1) == b""
        assert eventually(lambda: served.server.connections_open == 0)
