"""The daemon as it is run: a process that is scraped, signalled, misconfigured and sandboxed."""

import contextlib
import gzip
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import seccomp
from daemon import Daemon, Metrics, environment, running, start
from guards import need, need_command
from lab import RECIPES, Namespace, Stage
from lab.processes import command_line
from oracles import SS_STATES
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from sockwatch.export.formats import Format
from sockwatch.tcp.states import Family, State, Unowned

pytestmark = pytest.mark.kernel

NOBODY: Final = 65534
UIDS: Final = {"root": None, "nobody": NOBODY}
OWN_STATES: Final = {State.LISTEN, State.ESTABLISHED, State.TIME_WAIT}
"""Those in which sockets of the daemon and its clients stay; they pass through others quickly."""
FRESH: Final = ("--watch.interval=100ms", "--census.interval=200ms", "--cpu.budget=0")
"""Passes so frequent that a test need not wait for them."""


@pytest.fixture(params=UIDS)
def uid(request: pytest.FixtureRequest) -> int | None:
    chosen = UIDS[request.param]
    if chosen is not None:
        command = command_line((sys.executable, "-c", "import sockwatch"), chosen)
        tried = subprocess.run(command, env=environment(), capture_output=True, check=False)
        need(tried.returncode == 0, "needs a checkout and a Python that everybody may read")
    return chosen


@pytest.fixture
def stage(namespace: Namespace) -> Iterator[Stage]:
    """Sockets in every state and family, another number of each kind."""
    with Stage(namespace) as made:
        for count, recipe in enumerate(RECIPES, start=1):
            for family in Family:
                made.play(recipe, family, count + (family is Family.INET6))
        yield made


@pytest.fixture(scope="module")
def quiet(laboratory: None) -> Iterator[Namespace]:
    """A namespace in which nothing happens but what daemons do."""
    with Namespace() as made:
        yield made


@pytest.fixture(scope="module")
def daemon(quiet: Namespace) -> Iterator[Daemon]:
    """One daemon for all that only ask."""
    with running(*FRESH, namespace=quiet) as started:
        yield started


def ss_counts(namespace: Namespace, port: int) -> Counter[State]:
    """Sockets by state as `ss` counts them, but those of the daemon on that port."""
    others = f"sport != :{port} and dport != :{port}"
    lines = namespace.run("ss", "-tanH", others).splitlines()
    return Counter(SS_STATES[line.split()[0]] for line in lines)


def service_counts(metrics: Metrics, port: int) -> Counter[State]:
    """Connections by state, but those of the daemon on that port."""
    found: Counter[State] = Counter()
    for (at, state), count in metrics.by("sockwatch_tcp_connections", "port", "state").items():
        if at != str(port):
            found[State[state.upper()]] += int(count)
    return +found


def lab_totals(metrics: Metrics) -> Counter[tuple[Family, State]]:
    """Sockets by family and state, but for the states that those of the daemon are in."""
    found = metrics.by("sockwatch_tcp_sockets", "family", "state")
    families = {family.label: family for family in Family}
    return lab_only(
        Counter(
            {
                (families[family], State[state.upper()]): int(count)
                for (family, state), count in found.items()
            }
        )
    )


def unowned(metrics: Metrics, kind: str) -> float:
    return metrics.sum("sockwatch_tcp_unowned_sockets", kind=kind)


def lab_only(counts: Counter[tuple[Family, State]]) -> Counter[tuple[Family, State]]:
    return +Counter({key: count for key, count in counts.items() if key[1] not in OWN_STATES})


# What it sees


@pytest.mark.may_skip_in_ci("a checkout below a private folder is no fault of the machine")
def test_it_counts_what_ss_counts_whoever_runs_it(uid: int | None, stage: Stage) -> None:
    with running(*FRESH, namespace=stage.namespace, uid=uid) as watcher:
        expected = ss_counts(stage.namespace, watcher.port)
        listening = expected.pop(State.LISTEN)
        assert len(expected) == 9
        watcher.until(
            lambda: service_counts(watcher.metrics(), watcher.port) == expected, f"{expected}"
        )
        metrics = watcher.metrics()
        assert metrics.values("sockwatch_source_info", source="netlink") == [1]
        assert metrics.sum("sockwatch_tcp_sockets", state="listen") == listening + 1
        watcher.until(
            lambda: lab_totals(watcher.metrics()) == lab_only(stage.sockets), f"{stage.sockets}"
        )
        watcher.until(
            lambda: unowned(watcher.metrics(), "orphan") == stage.unowned[Unowned.ORPHAN], "orphans"
        )


def test_it_sees_its_own_listener_and_connections(daemon: Daemon, quiet: Namespace) -> None:
    own = {"direction": "inbound", "port": str(daemon.port)}

    def established() -> float:
        return daemon.metrics().sum("sockwatch_tcp_connections", state="established", **own)

    assert daemon.metrics().values("sockwatch_tcp_connections", state="close_wait", **own) == [0]
    with contextlib.ExitStack() as held, quiet.entered():
        for _ in range(5):
            held.enter_context(socket.create_connection(("127.0.0.1", daemon.port), timeout=5))
        daemon.until(lambda: established() >= 5, "its own connections")
    daemon.until(lambda: established() < 5, "its own connections gone")


# What it answers


@pytest.mark.parametrize(
    ("accept", "fmt"),
    [
        ("application/openmetrics-text;version=1.0.0", Format.OPENMETRICS_1_0_0),
        ("text/plain;version=1.0.0;escaping=allow-utf-8", Format.TEXT_1_0_0),
        ("text/plain;version=0.0.4", Format.TEXT_0_0_4),
        ("*/*", Format.TEXT_0_0_4),
    ],
)
def test_it_is_scraped_in_the_format_asked_for(daemon: Daemon, accept: str, fmt: Format) -> None:
    answer = daemon.get("/metrics", Accept=accept)
    assert (answer.status, answer.headers["content-type"]) == (200, fmt)
    read = openmetrics if fmt is Format.OPENMETRICS_1_0_0 else plain
    names = {sample.name for family in read(answer.text) for sample in family.samples}
    assert {"sockwatch_tcp_sockets", "sockwatch_passes_total", "process_open_fds"} <= names


@pytest.mark.stack
@pytest.mark.parametrize("accept", ["text/plain;version=0.0.4", "text/plain;version=1.0.0"])
def test_promtool_finds_nothing_to_blame(daemon: Daemon, accept: str) -> None:
    promtool = need_command("promtool", "prometheus")
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=daemon.get("/metrics", Accept=accept).body,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_it_answers_as_http_has_it(daemon: Daemon) -> None:
    packed = daemon.get("/metrics", Accept_Encoding="gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert b"sockwatch_tcp_sockets{" in gzip.decompress(packed.body)
    head = daemon.get("/metrics", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["content-length"]) > 1000
    assert daemon.get("/nothing/here").status == 404
    refused = daemon.get("/metrics", "POST")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
    assert daemon.get("/-/healthy").status == 200
    assert daemon.get("/-/ready").status == 200


def test_its_front_page_shows_the_states(daemon: Daemon) -> None:
    page = daemon.get("/")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "CLOSE_WAIT" in page.text.upper()


def test_every_scrape_tells_of_newer_passes(daemon: Daemon) -> None:
    def watches() -> float:
        return daemon.metrics().sum("sockwatch_passes_total", **{"pass": "watch"})

    before = watches()
    daemon.until(lambda: watches() > before + 3, "newer passes")


def test_it_does_not_grow_with_scrapes(daemon: Daemon) -> None:
    for _ in range(20):
        daemon.metrics()
    before, descriptors = daemon.resident_bytes(), daemon.metrics().sum("process_open_fds")
    for _ in range(200):
        daemon.get("/metrics")
    assert daemon.resident_bytes() - before < 2e6
    assert daemon.metrics().sum("process_open_fds") <= descriptors + 2


# How it starts


def test_it_is_soon_ready_and_small_without_any_configuration(quiet: Namespace) -> None:
    with start(namespace=quiet, listen="") as watcher:
        assert watcher.until_ready() < 5
        assert watcher.port == 10077
        assert watcher.get("/metrics").status == 200
        assert watcher.resident_bytes() < 45 << 20  # MiB, of which 42 are imported libraries
        log = watcher.log()
    assert "level=INFO" in log
    assert 'msg="reading sockets through netlink: netlink is preferred and works"' in log
    assert not re.search("level=(WARN|ERROR)|Traceback", log)


def failed_start(*flags: str, namespace: Namespace | None = None) -> tuple[int, str]:
    """Exit code and output of a daemon that does not get to serving."""
    with start(*flags, namespace=namespace) as watcher:
        return watcher.ended(), watcher.log()


def test_a_port_in_use_is_one_line(daemon: Daemon, quiet: Namespace) -> None:
    with start(namespace=quiet, listen=f"127.0.0.1:{daemon.port}") as watcher:
        code, text = watcher.ended(), watcher.log()
    assert code == 1
    assert text.startswith(f"sockwatch run: cannot listen on 127.0.0.1:{daemon.port}: ")
    assert "Address already in use" in text
    assert text.count("\n") == 1


def test_of_several_addresses_each_is_served_or_none(quiet: Namespace, daemon: Daemon) -> None:
    flags = [f"--web.listen-address={where}" for where in ("[::1]:0", f"127.0.0.1:{daemon.port}")]
    assert failed_start(*flags, namespace=quiet)[0] == 1
    with running("--web.listen-address=[::1]:0", namespace=quiet) as watcher:
        _, port = watcher.ports()
        with quiet.entered(), socket.create_connection(("::1", port), timeout=5) as client:
            client.sendall(b"GET /-/healthy HTTP/1.0\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")


def test_without_a_socket_from_systemd_it_says_what_to_do() -> None:
    code, text = failed_start("--web.systemd-socket")
    assert code == 1
    assert "--web.listen-address" in text
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--watch.interval=never"], "--watch.interval"),
        (["--bogus"], "--bogus"),
        (["--config.file=/no/such/file"], "/no/such/file"),
        (["--web.listen-address=nonsense"], "nonsense"),
    ],
)
def test_a_wrong_configuration_is_one_line_before_anything_is_opened(
    flags: list[str], named: str, tmp_path: Path
) -> None:
    trace = tmp_path / "opened"
    program = ("-c", AUDITED, str(trace))
    with start(*flags, program=program) as watcher:
        code, text = watcher.ended(), watcher.log()
    assert code == 2
    assert named in text
    assert text.count("\n") == 1
    assert trace.read_text() == ""


AUDITED: Final = """
import sys
from pathlib import Path
from sockwatch.__main__ import main

trace = open(sys.argv[1], "w")
sys.addaudithook(lambda event, _: event.startswith("socket.") and print(event, file=trace))
try:
    status = main(sys.argv[2:])
finally:
    trace.close()
sys.exit(status)
"""
"""The program, telling which sockets it makes."""


def test_the_trace_of_sockets_would_show_one(tmp_path: Path) -> None:
    trace = tmp_path / "opened"
    with start(program=("-c", AUDITED, str(trace))) as watcher:
        watcher.until_ready()
        watcher.send(signal.SIGTERM)
        watcher.ended()
    assert "socket.bind" in trace.read_text()


# How it ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_within_a_second_whatever_clients_do(number: signal.Signals) -> None:
    with running() as watcher, contextlib.ExitStack() as held:
        for sent in (b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"):
            client = socket.create_connection(("127.0.0.1", watcher.port), timeout=5)
            held.enter_context(client).sendall(sent)
        began = time.monotonic()
        watcher.send(number)
        assert watcher.ended() == 0
        assert time.monotonic() - began < 1
        assert not re.search("level=(WARN|ERROR)|Traceback", watcher.log())
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", watcher.port), timeout=5)


def test_it_can_be_ended_before_it_is_ready() -> None:
    with start() as watcher:
        assert watcher.port
        watcher.send(signal.SIGTERM)
        assert watcher.ended() == 0


BROKEN_LATER: Final = """
import sys
from itertools import count
from sockwatch.__main__ import main
from sockwatch.kernel.netlink import NetlinkSource

watch, calls = NetlinkSource.watch, count()

def broken(*arguments):
    if next(calls) == 2:
        raise ZeroDivisionError("a mistake of ours")
    return watch(*arguments)

NetlinkSource.watch = broken
sys.exit(main(sys.argv[1:]))
"""


def test_a_mistake_of_ours_ends_it_with_a_traceback() -> None:
    """A watcher that does not look must not go on answering."""
    with start("--watch.interval=100ms", program=("-c", BROKEN_LATER)) as watcher:
        port = watcher.port
        assert watcher.ended() == 1
        log = watcher.log()
    assert "Traceback (most recent call last)" in log
    assert log.rstrip().endswith("ZeroDivisionError: a mistake of ours")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_listener_that_somebody_ended_ends_it_with_one_line(quiet: Namespace) -> None:
    """Nobody could ask it any longer; systemd starts it anew."""
    with start(namespace=quiet) as watcher:
        watcher.until_ready()
        quiet.run("ss", "-K", "-tln", f"sport = :{watcher.port}")
        assert watcher.ended() == 1
        log = watcher.log()
    [line] = [line for line in log.splitlines() if "level=INFO" not in line]
    assert "level=ERROR" in line
    assert f"127.0.0.1:{watcher.port} was ended" in line


# Reloading


INTERVALS: Final = '[watch]\ninterval = "{}"\n[census]\ninterval = "30s"\n'


def interval(watcher: Daemon) -> float:
    (seconds,) = watcher.metrics().values("sockwatch_pass_interval_seconds", **{"pass": "watch"})
    return seconds


def reloaded(watcher: Daemon) -> tuple[float, float]:
    """Whether the last reload was good, and when the last good one was."""
    metrics = watcher.metrics()
    name = "sockwatch_config_last_reload_success"
    return metrics.sum(f"{name}ful"), metrics.sum(f"{name}_timestamp_seconds")


def test_a_hangup_loads_a_good_file_and_only_that(tmp_path: Path) -> None:
    file = tmp_path / "sockwatch.toml"
    file.write_text(INTERVALS.format("300ms"))
    with running(f"--config.file={file}", "--cpu.budget=0") as watcher:
        (good, at_start) = reloaded(watcher)
        assert (good, interval(watcher)) == (1, 0.3)

        file.write_text(INTERVALS.format("200ms"))
        watcher.send(signal.SIGHUP)
        watcher.until(lambda: interval(watcher) == 0.2, "the new interval")
        good, at_reload = reloaded(watcher)
        assert good == 1
        assert at_reload > at_start
        assert 'msg="configuration reloaded"' in watcher.log()

        file.write_text(INTERVALS.format("100ms") + "[cpu]\nbudjet = 1\n")
        watcher.send(signal.SIGHUP)
        watcher.until(lambda: reloaded(watcher)[0] == 0, "the failure")
        assert reloaded(watcher) == (0, at_reload)
        assert interval(watcher) == 0.2
        assert re.search(r"level=ERROR .*budjet.*budget", watcher.log())
        assert watcher.get("/-/ready").status == 200

        file.unlink()
        watcher.send(signal.SIGHUP)
        watcher.until(lambda: watcher.log().count("level=ERROR") == 2, "the missing file")
        assert "there is no such file" in watcher.log()
        assert interval(watcher) == 0.2

        file.write_text(INTERVALS.format("100ms"))
        watcher.send(signal.SIGHUP)
        watcher.until(lambda: interval(watcher) == 0.1, "the mended file")
        assert reloaded(watcher)[0] == 1


def test_a_hangup_does_not_wait_for_the_pass_that_was_due(tmp_path: Path) -> None:
    file = tmp_path / "sockwatch.toml"
    file.write_text(INTERVALS.format("30s"))
    with running(f"--config.file={file}", "--cpu.budget=0") as watcher:
        file.write_text(INTERVALS.format("200ms"))
        watcher.send(signal.SIGHUP)
        began = time.monotonic()
        watcher.until(lambda: interval(watcher) == 0.2, "the new interval")
        assert time.monotonic() - began < 2


def test_the_budget_that_is_told_is_the_one_of_now(tmp_path: Path) -> None:
    file = tmp_path / "sockwatch.toml"
    file.write_text("[cpu]\nbudget = 0.05\n")
    with running(f"--config.file={file}") as watcher:

        def budget() -> list[float]:
            return watcher.metrics().values("sockwatch_cpu_budget_ratio")

        assert budget() == [0.05]
        file.write_text("[cpu]\nbudget = 0.1\n")
        watcher.send(signal.SIGHUP)
        watcher.until(lambda: budget() == [0.1], "the new budget")
        file.write_text("[cpu]\nbudget = 0\n")
        watcher.send(signal.SIGHUP)
        watcher.until(lambda: budget() == [], "no budget")


def test_flags_stay_above_the_file_when_it_is_loaded_again(tmp_path: Path) -> None:
    file = tmp_path / "sockwatch.toml"
    file.write_text(INTERVALS.format("300ms"))
    with running(f"--config.file={file}", "--watch.interval=2s", "--cpu.budget=0") as watcher:
        file.write_text(INTERVALS.format("200ms"))
        watcher.send(signal.SIGHUP)
        watcher.until(lambda: "configuration reloaded" in watcher.log(), "reloaded")
        watcher.until(lambda: watcher.metrics().sum("sockwatch_passes_total") >= 2, "a pass")
        assert interval(watcher) == 2


def test_what_a_reload_cannot_change_is_told(tmp_path: Path) -> None:
    file = tmp_path / "sockwatch.toml"
    file.write_text("")
    with running(f"--config.file={file}") as watcher:
        file.write_text('[web]\ntelemetry_path = "/other"\n[log]\nformat = "json"\n')
        watcher.send(signal.SIGHUP)
        watcher.until(lambda: "configuration reloaded" in watcher.log(), "reloaded")
        assert watcher.get("/metrics").status == 200
        *_, told, done = map(json.loads, watcher.log().splitlines()[2:])
        assert (told["level"], done["msg"]) == ("WARN", "configuration reloaded")
        assert "[web]" in told["msg"]


def test_namespaces_that_are_not_watched_are_told(tmp_path: Path) -> None:
    file = tmp_path / "sockwatch.toml"
    file.write_text('[netns]\ninclude = ["blue"]\n')
    with running(f"--config.file={file}") as watcher:
        for names, told in (('["blue"]', 1), ('["green"]', 2), ("[]", 2)):
            assert load_anew(watcher, file, f"[netns]\ninclude = {names}\n")
            assert watcher.log().count("netns.include has no effect yet") == told


def load_anew(watcher: Daemon, file: Path, text: str) -> bool:
    before = watcher.log().count("configuration reloaded")
    file.write_text(text)
    watcher.send(signal.SIGHUP)
    return watcher.until(
        lambda: watcher.log().count("configuration reloaded") > before, "configuration reloaded"
    )


def test_a_storm_of_hangups_is_survived() -> None:
    with running() as watcher:
        for _ in range(50):
            watcher.send(signal.SIGHUP)
            time.sleep(0.002)
        watcher.until(lambda: "configuration reloaded" in watcher.log(), "reloaded")
        assert watcher.get("/-/ready").status == 200


# Hardships


SANDBOXED: Final = """
import errno, sys
import seccomp
from sockwatch.__main__ import main

seccomp.refuse_netlink(errno.EPERM)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.may_skip_in_ci("a checkout below a private folder is no fault of the machine")
def test_where_netlink_is_forbidden_it_reads_through_psutil(uid: int | None, stage: Stage) -> None:
    need(seccomp.is_known(), "needs a seccomp filter for this machine")
    program = ("-c", SANDBOXED)
    with running(*FRESH, namespace=stage.namespace, uid=uid, program=program) as watcher:
        expected = ss_counts(stage.namespace, watcher.port)
        del expected[State.LISTEN]
        watcher.until(
            lambda: service_counts(watcher.metrics(), watcher.port) == expected, f"{expected}"
        )
        metrics = watcher.metrics()
        assert metrics.by("sockwatch_source_info", "source") == {("psutil",): 1}
        assert metrics.values("sockwatch_tcp_unowned_sockets") == []
        log = watcher.log()
    told = [line for line in log.splitlines() if "netlink does not work" in line]
    assert len(told) == 1
    assert "level=WARN" in told[0]
    assert "EPERM" in told[0]


def test_there_is_no_burst_of_passes_after_a_stop() -> None:
    def passes(watcher: Daemon) -> float:
        return watcher.metrics().sum("sockwatch_passes_total")

    with running("--watch.interval=200ms", "--cpu.budget=0") as watcher:
        before = passes(watcher)
        watcher.send(signal.SIGSTOP)
        time.sleep(3)
        watcher.send(signal.SIGCONT)
        began = time.monotonic()
        after = passes(watcher)
        elapsed = time.monotonic() - began
        assert after - before <= 3 + elapsed / 0.2
        assert watcher.get("/-/ready").status == 200


FEW_DESCRIPTORS: Final = """
import resource, sys
from sockwatch.__main__ import main

resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
sys.exit(main(sys.argv[1:]))
"""


def test_clients_that_use_up_all_descriptors_do_not_stop_it_from_looking() -> None:
    def passes(watcher: Daemon) -> float:
        return watcher.metrics().sum("sockwatch_passes_total")

    flags = ("--watch.interval=100ms", "--census.interval=200ms", "--cpu.budget=0")
    with running(*flags, program=("-c", FEW_DESCRIPTORS)) as watcher:
        before = passes(watcher)
        with contextlib.ExitStack() as held:
            for _ in range(40):
                client = socket.create_connection(("127.0.0.1", watcher.port), timeout=5)
                held.enter_context(client)
            watcher.until(lambda: "Too many open files" in watcher.log(), "no descriptor left")
            time.sleep(1)
        watcher.until(lambda: watcher.get("/-/ready").status == 200, "answers again")
        assert passes(watcher) - before > 5
        assert watcher.metrics().sum("sockwatch_pass_failures_total") == 0


class Manager:
    """What systemd is to a service: a socket that takes its notifications."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.settimeout(10)

    def receive(self) -> str:
        return self._socket.recv(4096).decode()

    def until(self, wanted: str) -> list[str]:
        """All messages up to the first that begins like this."""
        found = [self.receive()]
        while not found[-1].startswith(wanted):
            found.append(self.receive())
        return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with contextlib.closing(Manager(tmp_path)) as made:
        yield made


def test_the_service_manager_is_told_how_it_goes(manager: Manager) -> None:
    env = environment(NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="10000000")
    with start("--watch.interval=100ms", "--cpu.budget=0", env=env) as watcher:
        first = manager.receive()
        assert first.startswith("READY=1\nSTATUS=")
        assert "netlink" in first
        assert watcher.get("/-/ready").status == 200
        assert manager.until("WATCHDOG=1")
        watcher.send(signal.SIGHUP)
        assert manager.until("RELOADING=1\nMONOTONIC_USEC=")
        assert manager.until("READY=1")
        watcher.send(signal.SIGTERM)
        assert manager.until("STOPPING=1")
        assert watcher.ended() == 0


def test_the_watchdog_is_not_fed_while_a_pass_hangs(manager: Manager) -> None:
    """Then systemd ends the daemon, which leaves a traceback of what hangs."""
    env = environment(NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="10000000")
    with start("--watch.interval=100ms", env=env, program=("-c", HANGING)) as watcher:
        manager.until("WATCHDOG=1")
        watcher.until(lambda: "hanging" in watcher.log(), "a pass that hangs")
        time.sleep(0.5)
        with contextlib.suppress(TimeoutError):
            manager._socket.settimeout(0.01)
            while True:
                manager.receive()
        manager._socket.settimeout(1)
        with pytest.raises(TimeoutError):
            manager.receive()
        assert watcher.get("/-/healthy").status == 200
        watcher.send(signal.SIGABRT)
        assert watcher.ended() == -signal.SIGABRT
        assert "in hang" in watcher.log()


HANGING: Final = """
import sys, time
from sockwatch.__main__ import main
from sockwatch.kernel.netlink import NetlinkSource

def hang(*_):
    print("hanging", flush=True)
    time.sleep(60)

NetlinkSource.watch = hang
sys.exit(main(sys.argv[1:]))
"""


HESITANT: Final = """
import sys, time
from sockwatch.__main__ import main
from sockwatch.kernel.netlink import NetlinkSource

def hesitate(*arguments, census=NetlinkSource.census):
    time.sleep(1)
    return census(*arguments)

NetlinkSource.census = hesitate
sys.exit(main(sys.argv[1:]))
"""


def test_a_hangup_before_the_first_pass_does_not_make_it_ready(manager: Manager) -> None:
    env = environment(NOTIFY_SOCKET=str(manager.path))
    with start(env=env, program=("-c", HESITANT)) as watcher:
        watcher.until(lambda: "msg=listening" in watcher.log(), "it listens")
        watcher.send(signal.SIGHUP)
        watcher.until(lambda: "configuration reloaded" in watcher.log(), "reloaded")
        assert watcher.get("/-/ready").status == 503
        assert manager.receive().startswith("READY=1\nSTATUS=reading sockets through netlink")
        assert watcher.get("/-/ready").status == 200


HASTY: Final = """
import os, signal, sys
from sockwatch.__main__ import main
from sockwatch.web import listen

def hung_up(addresses, really=listen.open_sockets):
    os.kill(os.getpid(), signal.SIGHUP)
    return really(addresses)

listen.open_sockets = hung_up
sys.exit(main(sys.argv[1:]))
"""


def test_a_hangup_during_the_start_is_not_forgotten() -> None:
    with start(program=("-c", HASTY)) as watcher:
        watcher.until(lambda: "configuration reloaded" in watcher.log(), "reloaded")
        watcher.until_ready()
        assert watcher.log().count("configuration reloaded") == 1


def test_it_ends_in_time_even_while_a_pass_hangs() -> None:
    with start("--watch.interval=100ms", program=("-c", HANGING)) as watcher:
        watcher.until(lambda: "hanging" in watcher.log(), "a pass that hangs")
        began = time.monotonic()
        watcher.send(signal.SIGTERM)
        assert watcher.ended() == 0
        assert time.monotonic() - began < 1.5


def test_ages_are_saved_even_while_a_pass_hangs(tmp_path: Path) -> None:
    env, ages = environment(STATE_DIRECTORY=str(tmp_path)), tmp_path / "ages"
    with start("--watch.interval=100ms", env=env, program=("-c", HANGING)) as watcher:
        watcher.until(lambda: "hanging" in watcher.log(), "a pass that hangs")
        ages.unlink(missing_ok=True)
        began = time.monotonic()
        watcher.send(signal.SIGTERM)
        assert watcher.ended() == 0
        assert time.monotonic() - began < 1.5
    assert ages.exists()
