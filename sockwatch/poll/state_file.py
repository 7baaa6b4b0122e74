"""Ages that outlive the daemon: the newest generation in a file of the state directory.

Theory of operation. Kernel cookies name sockets until the next boot, and the monotonic clock goes
on when the daemon ends. So what was remembered is as true after a restart as before, as long as
the boot and the namespaces of network and time are the same: these are the file's identity. What
came up after the last save is not in the file and gets the moment of the first pass; as that
comes a while after the last one that was saved, such ages are lower bounds (see `ages`).

A file is written beside the old one and renamed, so it is whole or not there at all. Nothing is
flushed to the disk: a crash of the host is a new boot, after which the file is worth nothing.

    line 1  sockwatch ages 1 and the CRC-32 of all that follows, in hexadecimal
    line 2  {"identity": ..., "taken": ..., "stride": ..., "widened": ..., "starts": number,
            "states": [[label, number], ...]}
    then    moments of `starts`; for each state its cookies, then their moments; 8 bytes each
"""

from __future__ import annotations

import json
import logging
import os
from array import array
from collections.abc import Iterable, Mapping
from itertools import chain
from math import inf
from pathlib import Path
from stat import S_ISREG
from threading import Lock
from typing import Any, Final, NamedTuple, Self
from zlib import crc32

from sockwatch.kernel.boot import identity
from sockwatch.observe.ages import Generation, Since
from sockwatch.tcp.states import State

log = logging.getLogger(__name__)

NAME: Final = "ages"
SAVE_AFTER: Final = 60.0
"""Seconds from one save to the next at least, except at the end."""
WAIT_FOR_OTHER: Final = 0.4
"""Seconds that a save waits for one of another thread: a file system that hangs holds up one."""
HEADER_BYTES: Final = 64 * 1024
"""Room for all but the connections."""

_MAGIC: Final = b"sockwatch ages 1 %08x\n"
_ITEM: Final = 8
_CONNECTION: Final = 2 * _ITEM
_STATES: Final = {state.label: state for state in State}


class Remembered(NamedTuple):
    """What is known of the time before."""

    generation: Generation
    taken: float
    """The monotonic moment of the pass that it was made by."""


class Unusable(Exception):
    """The file is no memory of this boot; the message says why."""


class AgeFile:
    """The file; its faults are logged, and never raised. Only `save` is for any thread."""

    def __init__(self, path: Path, identity: str) -> None:
        """Prepare; nothing is read or written yet.

        Args:
            path: of the file; its directory must exist.
            identity: see `kernel.boot`.
        """
        self._path = path
        self._identity = identity
        self._lock = Lock()
        self._saved = -inf
        self._is_empty = True
        self._complained = False

    @classmethod
    def of_service(cls, environ: Mapping[str, str]) -> Self | None:
        """The file in the directory that systemd gives (StateDirectory=), `None` without one."""
        directory = environ.get("STATE_DIRECTORY", "").partition(":")[0]
        if not directory:
            return None
        try:
            return cls(Path(directory, NAME), identity())
        except OSError as error:
            log.warning("ages will not survive a restart: %s", error)
            return None

    def load(self, now: float, limit: int) -> Remembered | None:
        """What the file says, `None` if there is none of use.

        Args:
            now: monotonic seconds.
            limit: connections that are followed at most. A file that is too large for them and
                those that the last pass missed is not read.
        """
        try:
            content = _read(self._path, HEADER_BYTES + 2 * limit * _CONNECTION)
            found = parse(content, self._identity, now)
        except FileNotFoundError:
            return None
        except (OSError, Unusable) as error:
            log.warning("%s is ignored, ages begin anew: %s", self._path, _reason(error))
            return None
        log.info(
            "ages of %d connections read from %s, %.0f s old",
            len(found.generation),
            self._path,
            now - found.taken,
        )
        return found

    def keep(self, newest: Remembered) -> None:
        """Save what the newest pass has left if the last save is long ago."""
        empty = not newest.generation.since
        if newest.taken - self._saved >= SAVE_AFTER and not (empty and self._is_empty):
            self.save(newest)

    def save(self, newest: Remembered) -> None:
        """Save what the newest pass has left, unless that of a later one is saved already."""
        if not self._lock.acquire(timeout=WAIT_FOR_OTHER):
            return
        try:
            if newest.taken >= self._saved:
                self._replace(newest)
        finally:
            self._lock.release()

    def _replace(self, newest: Remembered) -> None:
        self._saved, self._is_empty = newest.taken, not newest.generation.since
        try:
            _write(self._path, dumped(newest, self._identity))
        except OSError as error:
            if not self._complained:
                log.warning("ages will not survive a restart: %s: %s", self._path, _reason(error))
            self._complained = True
        else:
            self._complained = False


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _read(path: Path, most: int) -> bytes:
    # Not to wait for the writer of a named pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not S_ISREG(os.fstat(descriptor).st_mode):
            raise Unusable("it is not a regular file")
        content = file.read(most + 1)
    if len(content) > most:
        raise Unusable("it is larger than tracking.limit allows")
    return content


def _write(path: Path, parts: Iterable[bytes]) -> None:
    beside = path.with_name(f"{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.writelines(parts)
    beside.replace(path)


def dumped(remembered: Remembered, identity: str) -> tuple[bytes, ...]:
    """The content of a file, in parts."""
    generation, taken = remembered
    # One that the newest pass missed is still followed: it gets another pass after the restart.
    memories = (generation.missed, generation.since)
    columns: list[array[Any]] = [array("d", generation.starts)]
    numbers = []
    for state in sorted({*generation.missed, *generation.since}):
        parts = [memory.get(state, {}) for memory in memories]
        columns.append(array("Q", chain(*parts)))
        columns.append(array("d", chain(*(part.values() for part in parts))))
        numbers.append([state.label, sum(map(len, parts))])
    body = b"".join(map(array.tobytes, columns))
    header = {
        "identity": identity,
        "taken": taken,
        "stride": generation.stride,
        "widened": generation.widened,
        "starts": len(generation.starts),
        "states": numbers,
    }
    line = json.dumps(header).encode() + b"\n"
    return _MAGIC % crc32(body, crc32(line)), line, body


def parse(content: bytes, identity: str, now: float) -> Remembered:
    """What a file says at monotonic time `now`; total over any bytes.

    Raises:
        Unusable: it is damaged, or of another boot, version or namespace.
    """
    magic, _, rest = content.partition(b"\n")
    if magic.rpartition(b" ")[0] != _MAGIC.rpartition(b" ")[0]:
        raise Unusable("it is not a file of ages, or of another version")
    if magic + b"\n" != _MAGIC % crc32(rest):
        raise Unusable("it is damaged")
    line, _, body = rest.partition(b"\n")
    try:
        header = json.loads(line)
        if header["identity"] != identity:
            raise Unusable("it is of another boot or network namespace")
        return _remembered(header, memoryview(body), now)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise Unusable("it is damaged") from error


def _remembered(header: Mapping[str, Any], body: memoryview, now: float) -> Remembered:
    """Its content; ValueError, TypeError or LookupError if that makes no sense."""
    taken, stride = float(header["taken"]), int(header["stride"])
    if not 0 <= taken <= now:
        raise Unusable("it is from the future")
    columns = _Columns(body)
    starts = columns.moments(header["starts"], taken)
    since: dict[State, Since] = {}
    for label, number in header["states"]:
        cookies = columns.take("Q", number)
        since[_STATES[label]] = dict(zip(cookies, columns.moments(number, taken), strict=True))
    if columns.left or stride < 1 or stride & (stride - 1):
        raise ValueError
    generation = Generation(
        since=since,
        starts=frozenset(starts),
        stride=stride,
        widened=bool(header["widened"]),
    )
    return Remembered(generation, taken)


class _Columns:
    """Takes one column after another from the body."""

    def __init__(self, body: memoryview) -> None:
        self._body = body

    @property
    def left(self) -> int:
        return len(self._body)

    def take(self, kind: str, number: int) -> array[Any]:
        size = number * _ITEM
        if not 0 <= size <= len(self._body):
            raise ValueError
        column = array(kind, bytes(self._body[:size]))
        self._body = self._body[size:]
        return column

    def moments(self, number: int, taken: float) -> array[float]:
        column = self.take("d", number)
        if not all(0 <= moment <= taken for moment in column):
            raise ValueError
        return column
