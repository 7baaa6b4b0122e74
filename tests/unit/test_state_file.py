"""Ages come back from the state file as they went into it, or not at all."""

import json
import logging
import os
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockwatch.kernel.boot import identity
from sockwatch.observe.ages import Generation
from sockwatch.poll.state_file import (
    HEADER_BYTES,
    SAVE_AFTER,
    WAIT_FOR_OTHER,
    AgeFile,
    Remembered,
    Unusable,
    dumped,
    parse,
)
from sockwatch.tcp.states import State

HERE = "boot net:[1] time:[2]"
NOW = 5000.0
LIMIT = 1000
GENERATION = Generation(
    since={
        State.CLOSE_WAIT: {7: 4000.5, 1 << 63: 4100.25},
        State.FIN_WAIT2: {9: 3000.0},
    },
    starts=frozenset({3000.0, 4000.5}),
    stride=4,
    widened=True,
)
REMEMBERED = Remembered(GENERATION, 4999.0)
CONTENT = b"".join(dumped(REMEMBERED, HERE))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ages"


@pytest.fixture
def file(path: Path) -> AgeFile:
    return AgeFile(path, HERE)


def reread(path: Path, where: str = HERE, now: float = NOW) -> Remembered | None:
    """What the next daemon finds."""
    return AgeFile(path, where).load(now, LIMIT)


moments = st.floats(0, 4999, allow_nan=False)
since = st.dictionaries(st.integers(0, (1 << 64) - 1), moments, min_size=1)
generations = st.builds(
    Generation,
    since=st.dictionaries(st.sampled_from(State), since),
    starts=st.frozensets(moments),
    stride=st.sampled_from([1, 2, 64]),
    widened=st.booleans(),
)


@given(generations)
def test_what_was_saved_is_read(generation: Generation) -> None:
    remembered = Remembered(generation, 4999.0)
    assert parse(b"".join(dumped(remembered, HERE)), HERE, NOW) == remembered


def test_what_the_last_pass_missed_is_saved_too() -> None:
    """It gets one more pass after the restart, as it would have without one."""
    missed = {State.CLOSE_WAIT: {8: 1.0}, State.LAST_ACK: {5: 2.0}}
    content = b"".join(dumped(Remembered(replace(GENERATION, missed=missed), 4999.0), HERE))
    found = parse(content, HERE, NOW).generation
    assert found.missed == {}
    assert found.since == {
        State.CLOSE_WAIT: {8: 1.0, **GENERATION.since[State.CLOSE_WAIT]},
        State.FIN_WAIT2: GENERATION.since[State.FIN_WAIT2],
        State.LAST_ACK: {5: 2.0},
    }


def sealed(rest: bytes) -> bytes:
    """A file with this content and its right check sum."""
    return b"sockwatch ages 1 %08x\n" % crc32(rest) + rest


@given(st.binary())
def test_any_bytes_are_refused(content: bytes) -> None:
    for nonsense in (content, sealed(content), sealed(content + b"\n")):
        with pytest.raises(Unusable):
            parse(nonsense, HERE, NOW)


@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed(at: int, change: int) -> None:
    damaged = bytearray(CONTENT)
    damaged[at] ^= change
    with pytest.raises(Unusable):
        parse(bytes(damaged), HERE, NOW)


@given(st.integers(0, len(CONTENT) - 1))
def test_a_truncated_file_is_refused(size: int) -> None:
    with pytest.raises(Unusable):
        parse(CONTENT[:size], HERE, NOW)


def with_header(**changes: object) -> bytes:
    """The content with other values in its header."""
    _, line, body = CONTENT.split(b"\n", 2)
    return sealed(json.dumps(json.loads(line) | changes).encode() + b"\n" + body)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a file of ages"),
        (CONTENT.replace(b"ages 1", b"ages 2", 1), "of another version"),
        (with_header(identity="another boot"), "of another boot"),
        (with_header(taken=NOW + 1), "from the future"),
        (with_header(taken=-1), "from the future"),
        (with_header(taken=float("nan")), "from the future"),
        (with_header(taken=3500.0), "damaged"),  # some of its moments are later
        (with_header(taken="yesterday"), "damaged"),
        (with_header(taken=None), "damaged"),
        (with_header(stride=3), "damaged"),
        (with_header(stride=0), "damaged"),
        (with_header(starts=1), "damaged"),
        (with_header(starts=-2), "damaged"),
        (with_header(starts=1 << 70), "damaged"),
        (with_header(states=[]), "damaged"),
        (with_header(states=[["close_wait", 3], ["no_state", 0]]), "damaged"),
        (with_header(states=3), "damaged"),
        (sealed(CONTENT.partition(b"\n")[2] + b"\0"), "damaged"),
        (sealed(b"[" * 60_000), "damaged"),
        (sealed(b"[]\n"), "damaged"),
        (sealed(b"{}\n"), "damaged"),
    ],
)
def test_a_file_without_use_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        parse(content, HERE, NOW)


def test_a_saved_file_is_the_owners_alone_and_leaves_nothing_beside_it(
    file: AgeFile, path: Path
) -> None:
    file.save(REMEMBERED)
    assert [*path.parent.iterdir()] == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert reread(path) == REMEMBERED


def test_an_unfinished_save_leaves_the_last_one(file: AgeFile, path: Path) -> None:
    file.save(REMEMBERED)
    path.with_name("ages.new").write_bytes(CONTENT[:50])
    assert reread(path) == REMEMBERED
    file.save(REMEMBERED)
    assert [*path.parent.iterdir()] == [path]


def test_saves_are_seldom(file: AgeFile, path: Path) -> None:
    written = []
    for second in range(0, 200, 5):
        file.keep(Remembered(GENERATION, NOW + second))
        if path.exists():
            written.append(second)
            path.unlink()
    assert written == [0, SAVE_AFTER, 2 * SAVE_AFTER, 3 * SAVE_AFTER]


def test_without_connections_nothing_is_written_but_their_end_once(
    file: AgeFile, path: Path
) -> None:
    generations = [Generation(), GENERATION, Generation(), Generation(), GENERATION]
    written = []
    for number, generation in enumerate(generations):
        file.keep(Remembered(generation, NOW + number * SAVE_AFTER))
        written.append(path.exists())
        path.unlink(missing_ok=True)
    assert written == [False, True, True, False, True]


def test_what_an_earlier_pass_left_does_not_replace_what_a_later_one_did(
    file: AgeFile, path: Path
) -> None:
    """Two threads may save at the end."""
    later = Remembered(Generation(), REMEMBERED.taken + 0.5)
    file.save(later)
    file.save(REMEMBERED)
    assert reread(path) == later


def test_a_save_that_hangs_holds_up_no_other_thread_for_long(file: AgeFile, path: Path) -> None:
    beside = path.with_name("ages.new")
    os.mkfifo(beside)
    hanging = Thread(target=file.save, args=(REMEMBERED,))
    hanging.start()
    while not file._lock.locked():
        time.sleep(0.001)
    began = time.monotonic()
    file.save(REMEMBERED)
    assert time.monotonic() - began < 2 * WAIT_FOR_OTHER
    beside.read_bytes()
    hanging.join(5)
    assert not hanging.is_alive()


def test_no_file_is_no_news(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert reread(path) is None
    assert not caplog.records


def test_what_was_read_is_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path.write_bytes(CONTENT)
    assert reread(path) == REMEMBERED
    assert caplog.messages == [f"ages of 3 connections read from {path}, 1 s old"]


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def too_large(path: Path) -> None:
    with path.open("wb") as file:
        file.write(CONTENT)
        file.truncate(HEADER_BYTES + 32 * LIMIT + 1)


def foreign(path: Path) -> None:
    path.write_bytes(with_header(identity="another boot"))


def a_loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [a_folder, a_pipe, too_large, foreign, a_loop])
def test_a_file_that_is_ignored_gets_one_line(
    make: Callable[[Path], None], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(path)
    assert reread(path) is None
    (message,) = caplog.messages
    assert message.startswith(f"{path} is ignored, ages begin anew: ")


def test_a_file_that_cannot_be_written_gets_one_line_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "state"
    file = AgeFile(folder / "ages", HERE)
    for _ in range(3):
        file.save(REMEMBERED)
    (message,) = caplog.messages
    assert message == (
        f"ages will not survive a restart: {folder / 'ages'}: No such file or directory"
    )
    folder.mkdir()
    file.save(REMEMBERED)
    (folder / "ages").unlink()
    folder.rmdir()
    file.save(REMEMBERED)
    assert len(caplog.messages) == 2


def test_a_link_in_the_way_is_not_written_through(file: AgeFile, path: Path) -> None:
    target = path.with_name("precious")
    target.write_text("precious")
    path.with_name("ages.new").symlink_to(target)
    file.save(REMEMBERED)
    assert target.read_text() == "precious"


@pytest.mark.parametrize("directory", ["{}", "{}:/var/lib/another"])
def test_systemd_says_where(directory: str, tmp_path: Path) -> None:
    file = AgeFile.of_service({"STATE_DIRECTORY": directory.format(tmp_path)})
    assert file is not None
    file.save(REMEMBERED)
    assert [*tmp_path.iterdir()] == [tmp_path / "ages"]
    assert reread(tmp_path / "ages", identity()) == REMEMBERED


@pytest.mark.parametrize("environ", [{}, {"STATE_DIRECTORY": ""}])
def test_without_systemd_there_is_no_file(environ: dict[str, str]) -> None:
    assert AgeFile.of_service(environ) is None


def test_the_identity_names_this_boot_and_is_the_same_again() -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert boot in identity()
    for kind in ("net", "time"):
        namespace = Path("/proc/self/ns", kind)
        assert not namespace.is_symlink() or str(namespace.readlink()) in identity()
    assert identity() == identity()
