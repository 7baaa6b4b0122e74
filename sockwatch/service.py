"""What makes the daemon a good citizen of systemd: readiness, inherited sockets, the journal.

Protocols: sd_notify(3), sd_listen_fds(3), sd-daemon(3). Without systemd all of it does nothing.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Final, TextIO

log = logging.getLogger(__name__)

_NOTIFY_TIMEOUT: Final = 1.0  # seconds that a busy service manager may keep us waiting
_FAMILIES: Final = frozenset({socket.AF_INET, socket.AF_INET6, socket.AF_UNIX})
_FIRST_DESCRIPTOR: Final = 3  # SD_LISTEN_FDS_START of systemd's sd-daemon.h


class Notifier:
    """Tells the service manager how the daemon is; for any thread, never raises.

    A message that cannot be delivered is logged once and otherwise lost, because the daemon is
    of use without its manager too.

    Args:
        environ: where NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are looked up.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = _notify_address(environ.get("NOTIFY_SOCKET", ""))
        self._watched = _is_watched(environ)
        self._socket: socket.socket | None = None
        self._complained = False
        if self._address:
            # Kept open, so that no shortage of descriptors starves the watchdog.
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(_NOTIFY_TIMEOUT)

    def ready(self, status: str = "") -> None:
        """Started up, or done with reloading."""
        self._send("READY=1", *([_status(status)] if status else []))

    def status(self, text: str) -> None:
        """Show one line in `systemctl status`."""
        self._send(_status(text))

    def reloading(self) -> None:
        """Reading the configuration anew; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """About to end."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """Still doing its work; nothing is sent unless the manager watches this process."""
        if self._watched:
            self._send("WATCHDOG=1")

    def close(self) -> None:
        """Say nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except OSError as error:
            if not self._complained:
                log.warning("cannot notify the service manager: %s", error)
            self._complained = True
        else:
            self._complained = False


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.split())


def _notify_address(value: str) -> str:
    """The address of an AF_UNIX socket, empty if there is none; `@` stands for abstract names."""
    if value.startswith("@"):
        return "\0" + value[1:]
    return value if value.startswith("/") else ""


def _is_watched(environ: Mapping[str, str]) -> bool:
    timeout, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID")
    return timeout.isdecimal() and int(timeout) > 0 and pid in {None, str(os.getpid())}


class ActivationError(Exception):
    """The sockets of a socket unit cannot be served on; says which, why, and what to do."""


def inherited_sockets(environ: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """The listening sockets that systemd passes to this process, in the unit's order.

    They are not passed on to children, and the variables are taken out of `environ`.

    Raises:
        ActivationError: there are none, or one is not a listening stream socket.
    """
    pid, count, names = (environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not count.isdecimal() or int(count) == 0:
        raise ActivationError(
            "systemd passed no socket: start it through sockwatch.socket, or give "
            "--web.listen-address instead of --web.systemd-socket"
        )
    labels = dict(enumerate(names.split(":"), start=_FIRST_DESCRIPTOR))
    descriptors = range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count))
    return [_listening(number, labels.get(number) or "unnamed") for number in descriptors]


def _listening(descriptor: int, name: str) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)  # noqa: FBT003  positional only
        inherited = socket.socket(fileno=descriptor)
    except OSError as error:
        what = f"descriptor {descriptor} ({name}) from systemd"
        raise ActivationError(f"{what} is no socket: {error.strerror}") from error
    if not _can_be_served_on(inherited):
        inherited.close()
        raise ActivationError(
            f"descriptor {descriptor} ({name}) from systemd is not listening: its socket unit "
            "needs ListenStream= with a port or a path, and Accept=no"
        )
    return inherited


def _can_be_served_on(inherited: socket.socket) -> bool:
    """Whether it listens for streams; ListenStream= may also be of AF_VSOCK."""
    is_stream = inherited.family in _FAMILIES and inherited.type == socket.SOCK_STREAM
    return is_stream and bool(inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_SEVERITIES: Final = (
    # From a level on: its name in the Prometheus world, and its priority in sd-daemon(3).
    (logging.CRITICAL, "ERROR", 2),
    (logging.ERROR, "ERROR", 3),
    (logging.WARNING, "WARN", 4),
    (logging.INFO, "INFO", 6),
    (logging.NOTSET, "DEBUG", 7),
)
_KEY_TROUBLE: Final = re.compile(r"[^\w.-]", re.ASCII)
_Facts = Mapping[str, object]


def setup_logging(
    level: str, fmt: str, environ: Mapping[str, str] = os.environ, stream: TextIO | None = None
) -> None:
    """Make all loggers write one line per record to stderr.

    What a record says beyond its message goes into `extra`, under `fields`:
    `log.warning("pass failed", extra={"fields": {"cause": "busy"}})`. An exception becomes the
    fields `err` and `traceback`. Under the journal lines have a priority and no time of their own.

    Args:
        level: least severe to write: one of `LEVELS`. DEBUG_INVOCATION=1, which systemd sets when
            it restarts a failed unit with RestartMode=debug, overrides it with debug.
        fmt: `logfmt` or `json`, with the fields of Prometheus: time, level, source, msg.
        environ: where JOURNAL_STREAM and DEBUG_INVOCATION are looked up.
        stream: where to instead of stderr.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter(FORMATS[fmt], journal=_is_journal(handler.stream, environ)))
    debug = environ.get("DEBUG_INVOCATION") == "1"
    logging.basicConfig(level=LEVELS["debug" if debug else level], handlers=[handler], force=True)


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    try:
        facts = os.fstat(stream.fileno())
    except (OSError, ValueError):  # not a file
        return False
    return environ.get("JOURNAL_STREAM") == f"{facts.st_dev}:{facts.st_ino}"


class LineFormatter(logging.Formatter):
    """One line per record, whatever is in it.

    Args:
        write: makes the line from the facts, in order.
        journal: begin with a priority such as `<4>` instead of the time.
    """

    def __init__(self, write: Callable[[_Facts], str], *, journal: bool) -> None:
        super().__init__()
        self._write = write
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        severity = next(entry for entry in _SEVERITIES if record.levelno >= entry[0])
        _, level, priority = severity
        facts = {
            "time": _timestamp(record.created),
            "level": level,
            "source": f"{record.name}:{record.lineno}",
            "msg": record.getMessage(),
        }
        facts = facts | {**getattr(record, "fields", {}), **self._exception(record)} | facts
        if not self._journal:
            return self._write(facts)
        del facts["time"]
        return f"<{priority}>{self._write(facts)}"

    def _exception(self, record: logging.LogRecord) -> dict[str, str]:
        if not record.exc_info or record.exc_info[1] is None:
            return {}
        kind, error, _ = record.exc_info
        return {
            "err": f"{kind.__name__}: {error}",
            "traceback": self.formatException(record.exc_info),
        }


def _timestamp(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _logfmt(facts: _Facts) -> str:
    return " ".join(
        f"{_KEY_TROUBLE.sub('_', key)}={_quoted(value)}" for key, value in facts.items()
    )


def _quoted(value: object) -> str:
    """The value bare where that is unambiguous, else as a JSON string, which logfmt reads too."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else str(value)
    if not text.isprintable():
        return json.dumps(text)  # ASCII: control characters and whatever else is not to be seen
    if not text or any(char in ' "=' for char in text):
        return json.dumps(text, ensure_ascii=False)
    return text


def _json(facts: _Facts) -> str:
    return json.dumps(facts, default=str)


FORMATS: Final[Mapping[str, Callable[[_Facts], str]]] = {"logfmt": _logfmt, "json": _json}
