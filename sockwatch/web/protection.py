"""What the web configuration file asks for, followed while it and its certificates change."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from sockwatch.config import ConfigError, Layer, Origin, Problem
from sockwatch.web.bucket import Bucket
from sockwatch.web.certificates import tls_of
from sockwatch.web.config import RateLimit, WebFile, load
from sockwatch.web.gate import Gate
from sockwatch.web.passwords import Passwords
from sockwatch.web.server import Application
from sockwatch.web.tls import Tls

LOOK_EVERY: Final = 1.0
"""Seconds between looks at the files."""
SETTLE: Final = 1.0
"""Seconds since the newest change before it is read: it may be half written, or half of a pair."""

_LOG: Final = logging.getLogger(__name__)
_TLS_STAYS: Final = "TLS is turned on or off by it, which takes a restart"
_PASSWORDS_STAY: Final = "it no longer asks for passwords, which takes a restart"

Stamp = tuple[int, int, int] | None
"""Time of the last change in nanoseconds, size and inode; `None` of a file that is absent."""


@dataclass(frozen=True, slots=True)
class Rules:
    """A web configuration file as it is in effect."""

    file: WebFile
    tls: Tls | None
    limiter: Bucket | None


class Protection:
    """The rules of the last good reading.

    Looked at whenever a connection or a request comes, but at most once a second; what is broken
    changes nothing and is logged once.

    Args:
        path: of the web configuration file.
        clock: seconds, never going back.

    Raises:
        ConfigError: the file is not valid.
        CertificateError: what it names cannot be used.
    """

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._looked = clock()
        self._files: tuple[str, ...] = ()
        self._stamps: list[Stamp] = []
        self._rules = self._read(None)
        self.passwords = Passwords(self._rules.file.users, clock)
        self.successful = True
        """Whether the last attempt to read the files succeeded."""
        self.success_time = time.time()
        """Unix time in seconds of the last good reading."""

    def rules(self) -> Rules:
        """What is in effect now."""
        now = self._clock()
        if now - self._looked >= LOOK_EVERY:
            self._looked = now
            self._look()
        return self._rules

    def tls(self) -> Tls:
        """What to serve a new connection with, where there is TLS at all."""
        tls = self.rules().tls
        assert tls is not None  # noqa: S101  a restart away
        return tls

    def guard(self, app: Application) -> Application:
        """The application behind these rules."""
        return Gate(app, self)

    @property
    def has_tls(self) -> bool:
        """Whether TLS is served; this does not change."""
        return self._rules.tls is not None

    def reload(self) -> None:
        """Read the files now; on any error nothing changes.

        Raises:
            ConfigError: the file is not valid, or cannot take effect without a restart.
            CertificateError: what it names cannot be used.
        """
        self.successful = False
        rules = self._read(self._rules)
        self._rules, self.passwords.users = rules, rules.file.users
        self.successful, self.success_time = True, time.time()

    def log(self) -> None:
        """Say what is in effect, and what looks like a mistake."""
        file = self._rules.file
        fields = {
            "tls": file.tls is not None,
            "client_certificates": bool(file.tls and file.tls.client_auth),
            "users": len(file.users),
        }
        _LOG.info("web configuration loaded", extra={"fields": fields})
        if not file.tls and not file.users:
            _LOG.warning("%s asks neither for TLS nor for passwords", self._path)
        if file.http2:
            _LOG.warning("%s asks for HTTP/2, which is not spoken here", self._path)

    def _look(self) -> None:
        stamps = [_stamp(path) for path in (self._path, *self._files)]
        if stamps == self._stamps or _is_settling(stamps):
            return
        try:
            self.reload()
        except ConfigError as error:
            _LOG.error("web configuration not reloaded, the old one stays: %s", error)
        else:
            self.log()

    def _read(self, old: Rules | None) -> Rules:
        self._stamps = [_stamp(path) for path in (self._path, *self._files)]
        file = load(self._path)
        self._files = file.files
        self._stamps[1:] = map(_stamp, self._files)
        tls = None if file.tls is None else tls_of(file.tls, self._path)
        if old is not None:
            self._check_change(old, file)
        unchanged = old is not None and old.file.rate_limit == file.rate_limit
        limiter = old.limiter if old and unchanged else self._limiter(file.rate_limit)
        return Rules(file, tls, limiter)

    def _check_change(self, old: Rules, new: WebFile) -> None:
        """Refuse what no reload may do: above all to lay open what was protected."""
        problems = (
            ((old.file.tls is None) != (new.tls is None), _TLS_STAYS),
            (
                bool(old.file.users) and not new.users,
                _PASSWORDS_STAY,
            ),
        )
        found = [Problem(Origin(Layer.FILE, self._path), what) for wrong, what in problems if wrong]
        if found:
            raise ConfigError(found)

    def _limiter(self, limit: RateLimit | None) -> Bucket | None:
        return limit and Bucket(1 / limit.interval, limit.burst, self._clock())


def _stamp(path: str) -> Stamp:
    try:
        status = os.stat(path)  # noqa: PTH116  Path() would hide what was given
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _is_settling(stamps: Iterable[Stamp]) -> bool:
    now = time.time()
    return any(stamp is not None and 0 <= now - stamp[0] / 1e9 < SETTLE for stamp in stamps)
