"""`sockwatch explain` answers for any spelling, with the sysctls of this host."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sockwatch.commands import explain
from sockwatch.kernel.sysctls import read_all
from sockwatch.tcp.model import MODEL
from sockwatch.tcp.states import State

SPELLINGS = {
    State.CLOSE_WAIT: ["close_wait", "CLOSE_WAIT", "CLOSE-WAIT", "CloseWait", "closewait"],
    State.ESTABLISHED: ["established", "ESTAB", "Established"],
    State.FIN_WAIT1: ["fin-wait-1", "FIN_WAIT1", "FIN-WAIT-1", "finwait1"],
    State.FIN_WAIT2: ["fin-wait-2", "FIN_WAIT_2", "fin wait 2", "FIN_WAIT2"],
    State.SYN_RECV: ["syn_recv", "SYN-RECV", "SYN-RECEIVED", "SYN_RCVD", "NEW_SYN_RECV"],
    State.SYN_SENT: ["SYN-SENT", "syn_sent"],
    State.TIME_WAIT: ["TIME-WAIT", "timewait"],
    State.LAST_ACK: ["LAST-ACK", "lastack"],
    State.CLOSING: ["closing"],
    State.LISTEN: ["LISTEN", "LISTENING"],
    State.CLOSE: ["CLOSE", "closed", "UNCONN"],
    State.UNKNOWN: ["unknown", "BOUND_INACTIVE"],
}
VALUES = {
    "net/core/somaxconn": 4096,
    "net/ipv4/tcp_syn_retries": 6,
    "net/ipv4/tcp_syn_linear_timeouts": 4,
    "net/ipv4/tcp_synack_retries": 5,
    "net/ipv4/tcp_keepalive_time": 7200,
    "net/ipv4/tcp_keepalive_intvl": 75,
    "net/ipv4/tcp_keepalive_probes": 9,
    "net/ipv4/tcp_retries2": 15,
    "net/ipv4/tcp_orphan_retries": 0,
    "net/ipv4/tcp_fin_timeout": 61,
    "net/ipv4/tcp_max_tw_buckets": 131072,
}


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with the default sysctls, and an output of 80 columns."""
    for name, value in VALUES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n", "ascii")

    def read_here(names: list[str]) -> dict[str, int | None]:
        return read_all(names, tmp_path)

    monkeypatch.setattr("sockwatch.commands.explain.read_all", read_here)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    explain.register(parser.add_subparsers())
    args = parser.parse_args(["explain", *words])
    status: int = args.run(args)
    return status


@pytest.mark.parametrize(
    ("name", "state"),
    [(name, state) for state, names in SPELLINGS.items() for name in names],
)
def test_any_common_spelling_is_understood(name: str, state: State) -> None:
    assert explain.state_named(name) is state


def test_the_spellings_cover_every_state() -> None:
    assert SPELLINGS.keys() == set(State)


@pytest.mark.parametrize("name", ["", "wait", "fin_wait3", "\x1b[31m", "8"])
def test_what_is_no_state_is_not_guessed(name: str) -> None:
    assert explain.state_named(name) is None


def test_an_unknown_state_is_one_line_with_the_nearest_and_wrong_use(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("clsewait") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "sockwatch explain: no TCP state is called 'clsewait'; did you mean close_wait?\n"
    )


def test_a_state_like_no_other_gets_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("\x1b[2Jq") == 2
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert err.count("\n") == 1
    assert all(state.label in err for state in State)


def test_all_states_fit_into_80_columns_one_row_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split("  ")[0] == "STATE"
    for standing in MODEL:
        starts = [line for line in lines if line.split("  ")[0].startswith(standing.state.label)]
        assert any(standing.phase in line for line in starts)


@pytest.mark.parametrize(
    ("state", "bound"),
    [
        ("syn_sent", "131 s"),
        ("syn_recv", "63 s"),
        ("fin_wait2 owned", "nothing"),
        ("fin_wait2 kernel", "61 s"),
        ("close_wait", "nothing"),
        ("time_wait", "60 s"),
        ("listen", "nothing"),
    ],
)
def test_the_overview_says_how_long_at_most(
    capsys: pytest.CaptureFixture[str], state: str, bound: str
) -> None:
    run()
    line = next(row for row in capsys.readouterr().out.splitlines() if row.startswith(state + " "))
    assert line.endswith(bound)


@pytest.mark.parametrize(
    "clause",
    [
        "connect() gives up after 131 s",
        "last 63 s at most",
        "noticed after 2 h 11 min",
        "at least 924 s",
        "at least 102 s (0 means 8; 107 s measured)",
        "end after 61 s",
    ],
)
def test_the_sysctls_of_this_host_are_told_with_what_they_mean(
    capsys: pytest.CaptureFixture[str], clause: str
) -> None:
    run()
    assert clause in " ".join(capsys.readouterr().out.split())


def test_a_sysctl_that_cannot_be_read_is_not_invented(
    capsys: pytest.CaptureFixture[str], host: Path
) -> None:
    (host / "net/ipv4/tcp_syn_retries").unlink()
    (host / "net/ipv4/tcp_keepalive_probes").unlink()
    run()
    text = " ".join(capsys.readouterr().out.split())
    assert "net.ipv4.tcp_syn_retries - not known on this host" in text
    assert "131 s" not in text
    assert "a dead peer is noticed after ?" in text


def test_one_state_is_explained_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("CLOSE-WAIT") == 0
    out = capsys.readouterr().out
    assert out.startswith("close_wait\n")
    assert "the local application" in out
    assert "no sysctl" in " ".join(out.split())
    assert "Limits of this host" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_both_kinds_of_fin_wait2_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    run("fin-wait-2")
    out = capsys.readouterr().out
    assert "fin_wait2 owned\n" in out
    assert "fin_wait2 kernel\n" in out
    assert "net.ipv4.tcp_fin_timeout  61" in out


def test_json_has_every_row_with_its_sysctls(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json") == 0
    states = json.loads(capsys.readouterr().out)["states"]
    assert len(states) == len(MODEL)
    by_name = {(one["state"], one["kernel_held"]): one for one in states}
    assert by_name["fin_wait2", True]["sysctls"] == {
        "net.ipv4.tcp_fin_timeout": {"value": 61, "seconds": 61.0}
    }
    assert by_name["close_wait", None]["phase"] == "closing_passive"
    assert by_name["close_wait", None]["bounded"] is False


def test_json_of_one_state_says_null_for_what_is_not_known(
    capsys: pytest.CaptureFixture[str], host: Path
) -> None:
    (host / "net/ipv4/tcp_synack_retries").unlink()
    run("syn_recv", "--json")
    (state,) = json.loads(capsys.readouterr().out)["states"]
    assert state["sysctls"] == {"net.ipv4.tcp_synack_retries": {"value": None, "seconds": None}}


def test_a_pipe_gets_no_colour(capsys: pytest.CaptureFixture[str]) -> None:
    run()
    run("listen")
    assert "\x1b" not in capsys.readouterr().out


PROGRAM = """
import argparse, sys
from sockwatch.commands import explain
parser = argparse.ArgumentParser()
explain.register(parser.add_subparsers())
args = parser.parse_args(["explain"])
status = args.run(args)
heavy = {"pyroute2", "psutil", "uvicorn", "asyncio", "prometheus_client"}
print(sorted(heavy & sys.modules.keys()), file=sys.stderr)
sys.exit(status)
"""


def test_it_starts_fast_for_it_imports_little() -> None:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environ, capture_output=True, text=True, check=True
        )
        times.append(time.perf_counter() - start)
        assert done.stderr == "[]\n"
    assert min(times) < 0.15
