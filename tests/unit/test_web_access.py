"""Who is a client on this host, and who only looks like one."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockwatch.web.access import AUTHENTICATED, is_local, is_loopback, may_see_details, site_of


def scope(client: str | None = "127.0.0.1", **headers: str) -> Mapping[str, Any]:
    pairs = [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in headers.items()]
    address = None if client is None else (client, 40000)
    return {"client": address, "http_version": "1.1", "headers": pairs}


@pytest.mark.parametrize("client", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_clients_on_loopback_are_local(client: str) -> None:
    assert is_local(scope(client, host="localhost:10077"))


@pytest.mark.parametrize(
    "client",
    [
        "192.0.2.1",
        "::",
        "0.0.0.0",
        "2001:db8::1",
        "fe80::1%eth0",
        "::ffff:192.0.2.1",
        "",
        "nonsense",
    ],
)
def test_clients_elsewhere_are_not(client: str) -> None:
    assert not is_local(scope(client, host="localhost:10077"))


def test_behind_a_unix_socket_nobody_is_local() -> None:
    assert not is_local(scope(None, host="localhost"))


@pytest.mark.parametrize(
    "name",
    ["forwarded", "via", "x_forwarded_for", "x_forwarded_host", "x_forwarded_proto", "x_real_ip"],
)
def test_what_a_proxy_on_this_host_forwards_is_not_local(name: str) -> None:
    assert not is_local(scope(host="localhost", **{name: "127.0.0.1"}))


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1:10077", "[::1]:10077", "[::1]", "127.1.2.3"]
)
def test_a_local_client_may_use_any_name_of_loopback(host: str) -> None:
    assert is_local(scope(host=host))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example:10077",
        "192.0.2.1",
        "",
        "[]",
        "[]:10077",
        "[::1",
        "127.0.0.1:a",
        "::1",
    ],
)
def test_another_name_for_this_host_is_dns_rebinding(host: str) -> None:
    assert not is_local(scope(host=host))


def test_who_speaks_http_1_0_is_a_proxy() -> None:
    """`proxy_pass http://127.0.0.1:10077;` is all that nginx needs, and adds no header."""
    request = scope(host="127.0.0.1:10077", connection="close")
    assert is_local(request)
    assert not is_local({**request, "http_version": "1.0"})


@given(st.text())
def test_any_text_is_judged(text: str) -> None:
    assert is_loopback(text) in {True, False}


@given(st.text("[]:.%01al", max_size=8))
def test_any_host_is_judged(host: str) -> None:
    assert is_local(scope(host=host)) in {True, False}


@pytest.mark.parametrize(
    ("client", "known", "may"),
    [("192.0.2.1", True, True), ("192.0.2.1", False, False), ("127.0.0.1", False, True)],
)
def test_who_has_authenticated_may_see_details_from_anywhere(
    client: str, known: bool, may: bool
) -> None:
    request = {**scope(client, host="localhost"), "state": {AUTHENTICATED: known}}
    assert may_see_details(request) is may


@pytest.mark.parametrize(
    ("address", "site"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("nonsense", "nonsense"),
        ("", ""),
    ],
)
def test_the_addresses_that_one_client_can_choose_from_are_one_site(
    address: str, site: str
) -> None:
    assert site_of(address) == site


@given(st.text())
def test_any_text_has_a_site(text: str) -> None:
    assert isinstance(site_of(text), str)
