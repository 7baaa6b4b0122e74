"""Listening on what was asked for, or one clear line about why not."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from guards import need

from sockwatch.config.addresses import Address, parse_address
from sockwatch.web.listen import ListenError, open_sockets


@pytest.fixture
def ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        need(condition=False, reason=f"needs IPv6 on loopback: {error.strerror}")


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listen(opened: ExitStack, *texts: str) -> list[socket.socket]:
    return [opened.enter_context(one) for one in open_sockets(map(parse_address, texts))]


def reaches(listener: socket.socket, host: str) -> bool:
    """Whether a client of this address gets through."""
    try:
        socket.create_connection((host, listener.getsockname()[1]), 5).close()
    except OSError:
        return False
    return True


def test_a_host_is_listened_on_alone(opened: ExitStack) -> None:
    (listener,) = listen(opened, "127.0.0.1:0")
    assert reaches(listener, "127.0.0.1")
    assert not reaches(listener, "127.0.0.2")
    assert not reaches(listener, "::1")


@pytest.mark.usefixtures("ipv6")
def test_no_host_is_every_address_of_both_families(opened: ExitStack) -> None:
    (listener,) = listen(opened, ":0")
    assert reaches(listener, "127.0.0.1")
    assert reaches(listener, "::1")


@pytest.mark.usefixtures("ipv6")
def test_the_ipv6_wildcard_leaves_ipv4_alone(opened: ExitStack) -> None:
    (listener,) = listen(opened, "[::]:0")
    assert reaches(listener, "::1")
    assert not reaches(listener, "127.0.0.1")


@pytest.mark.usefixtures("ipv6")
def test_both_wildcards_share_a_port(opened: ExitStack) -> None:
    (ipv4,) = listen(opened, "0.0.0.0:0")
    (ipv6,) = listen(opened, f"[::]:{ipv4.getsockname()[1]}")
    assert reaches(ipv4, "127.0.0.1")
    assert reaches(ipv6, "::1")


@pytest.mark.usefixtures("ipv6")
def test_several_addresses_are_several_sockets(opened: ExitStack) -> None:
    first, second = listen(opened, "127.0.0.1:0", "[::1]:0")
    assert reaches(first, "127.0.0.1")
    assert reaches(second, "::1")


def test_a_name_is_all_its_addresses(opened: ExitStack) -> None:
    assert any(reaches(one, "127.0.0.1") for one in listen(opened, "localhost:0"))


def test_a_port_left_a_moment_ago_can_be_taken_again(opened: ExitStack) -> None:
    (listener,) = listen(opened, "127.0.0.1:0")
    port = listener.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)), closing(listener.accept()[0]):
        pass
    listener.close()
    assert listen(opened, f"127.0.0.1:{port}")


def test_a_port_in_use_is_one_clear_line(opened: ExitStack) -> None:
    (listener,) = listen(opened, "127.0.0.1:0")
    port = listener.getsockname()[1]
    with pytest.raises(ListenError) as error:
        open_sockets([Address("127.0.0.1", port)])
    assert str(error.value) == (
        f"cannot listen on 127.0.0.1:{port}: Address already in use; stop what listens there "
        "(`ss -ltnp` names it), or choose another address with --web.listen-address"
    )


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (Address("192.0.2.1", 10077), "192.0.2.1:10077: Cannot assign requested address; choose"),
        (Address("2001:db8::1", 10077), "[2001:db8::1]:10077: Cannot assign requested address"),
        (Address("nowhere.invalid", 10077), "nowhere.invalid:10077: its name does not resolve"),
    ],
    ids=str,
)
def test_an_address_that_is_not_here_is_one_clear_line(address: Address, why: str) -> None:
    with pytest.raises(ListenError) as error:
        open_sockets([address])
    assert str(error.value).startswith(f"cannot listen on {why}")
    assert "\n" not in str(error.value)


def test_all_or_nothing(opened: ExitStack) -> None:
    """What was opened before the failure is free again; a leak would be a ResourceWarning."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(ListenError):
        open_sockets([Address("127.0.0.1", port), Address("192.0.2.1", 0)])
    assert listen(opened, f"127.0.0.1:{port}")
