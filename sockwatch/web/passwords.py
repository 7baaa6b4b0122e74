"""Names and passwords against bcrypt hashes, without telling which of both is wrong.

bcrypt is slow by design, so whoever may make us check passwords may make us burn CPU. Therefore

- checks run in a thread, one at a time, and only few wait for their turn;
- what was found is remembered, so that a scraper costs one check, not one per scrape;
- wrong passwords are paid for, in seconds of CPU: each client has an allowance, and all of them
  together have one. Who has used it up is put off without a check.

A name that nobody has costs the same as one that somebody has: it is compared with the hash of no
password, at a cost that some user has, always the same one for the same name.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum, auto
from typing import Final, NamedTuple

import bcrypt

from sockwatch.web.bucket import Bucket

LONGEST: Final = 72
"""Bytes of a password that bcrypt looks at; a longer one is wrong."""
CLIENT_SHARE: Final = 0.05
"""Of a core, for the wrong passwords of one client; after `CLIENT_BURST` seconds at once."""
CLIENT_BURST: Final = 1.0
TOTAL_SHARE: Final = 0.25
"""Of a core, for the wrong passwords of all clients; after `TOTAL_BURST` seconds at once."""
TOTAL_BURST: Final = 2.0
MOST_WAITING: Final = 8
"""Checks under way, the one that runs included."""
MOST_CLIENTS: Final = 1024
MOST_WRONG: Final = 256
"""Wrong passwords that are remembered."""

# The hash of random bytes that nobody has kept, after version and cost.
_NOBODY: Final = "HcQr4Y6ey2brgRufK4sVu.b0sqX.vCPZZt4crdYfZqOtzoaMYaI0q"
_PREFIX: Final = len("$2b$10$")


class Verdict(Enum):
    """What came of a check."""

    RIGHT = auto()
    WRONG = auto()
    LATER = auto()


class _Question(NamedTuple):
    """A name and a password, with the hash to compare it with."""

    user: str
    password: bytes
    hashed: str
    exists: bool
    digest: bytes
    """Stands for all of these in memory, where no password is kept."""


class Passwords:
    """Who may come in.

    Args:
        users: bcrypt hashes by name, at least one; may be replaced.
        clock: seconds, never going back.
    """

    def __init__(
        self, users: Mapping[str, str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.users = users
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._right: dict[str, bytes] = {}
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._spent: OrderedDict[str, Bucket] = OrderedDict()
        self._spent_by_all = Bucket(TOTAL_SHARE, TOTAL_BURST, clock())
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def check(self, user: str, password: bytes, client: str) -> Verdict:
        """Whether this is the password of the user.

        Args:
            user: as the client gives it.
            password: likewise.
            client: whose allowance pays if it is wrong.
        """
        asked = self._question(user, password)
        if (known := self._remembered(asked)) is not None:
            return known
        if len(password) > LONGEST:
            return Verdict.WRONG
        if self._waiting >= MOST_WAITING:
            return Verdict.LATER
        self._waiting += 1
        try:
            async with self._turn:
                return self._remembered(asked) or await self._find_out(asked, client)
        finally:
            self._waiting -= 1

    def _question(self, user: str, password: bytes) -> _Question:
        hashed = self.users.get(user)
        compared = self._hash_of_nobody(user) if hashed is None else hashed
        # repr keeps apart where one ends and the next begins.
        digest = self._digest(repr((user, compared, password)))
        return _Question(user, password, compared, hashed is not None, digest)

    def _hash_of_nobody(self, user: str) -> str:
        like = list(self.users.values())
        choice = int.from_bytes(self._digest(user)) % len(like)
        return like[choice][:_PREFIX] + _NOBODY

    def _digest(self, text: str) -> bytes:
        encoded = text.encode(errors="surrogateescape")
        return hashlib.blake2b(encoded, key=self._secret).digest()

    def _remembered(self, asked: _Question) -> Verdict | None:
        right = self._right.get(asked.user, b"")
        if asked.exists and hmac.compare_digest(right, asked.digest):
            return Verdict.RIGHT
        return Verdict.WRONG if asked.digest in self._wrong else None

    async def _find_out(self, asked: _Question, client: str) -> Verdict:
        if not self._may_spend(client):
            return Verdict.LATER
        matches, seconds = await _in_thread(lambda: _compare(asked.password, asked.hashed))
        if matches and asked.exists:
            self._right[asked.user] = asked.digest
            self._right = {user: self._right[user] for user in self._right if user in self.users}
            return Verdict.RIGHT
        self._spend(client, seconds)
        self._wrong[asked.digest] = None
        if len(self._wrong) > MOST_WRONG:
            self._wrong.popitem(last=False)
        return Verdict.WRONG

    def _may_spend(self, client: str) -> bool:
        now, own = self._clock(), self._spent.get(client)
        return self._spent_by_all.level(now) > 0 and (own is None or own.level(now) > 0)

    def _spend(self, client: str, seconds: float) -> None:
        now = self._clock()
        self._spent_by_all.take(seconds, now)
        if client not in self._spent:
            self._spent[client] = Bucket(CLIENT_SHARE, CLIENT_BURST, now)
        self._spent[client].take(seconds, now)
        self._spent.move_to_end(client)
        if len(self._spent) > MOST_CLIENTS:
            self._spent.popitem(last=False)


def _compare(password: bytes, hashed: str) -> tuple[bool, float]:
    """Whether they match, and the seconds of CPU that it took to know."""
    start = time.thread_time()
    matches = False
    with suppress(ValueError):  # older ones refuse a NUL
        matches = bcrypt.checkpw(password, hashed.encode())
    return matches, time.thread_time() - start


async def _in_thread(work: Callable[[], tuple[bool, float]]) -> tuple[bool, float]:
    """Do it in a thread that, unlike one of a pool, nobody waits for at the end."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[tuple[bool, float]] = loop.create_future()

    def run() -> None:
        done = work()
        with suppress(RuntimeError):  # the loop has gone meanwhile
            loop.call_soon_threadsafe(_settle, result, done)

    threading.Thread(target=run, name="password", daemon=True).start()
    return await result


def _settle(result: asyncio.Future[tuple[bool, float]], done: tuple[bool, float]) -> None:
    if not result.done():
        result.set_result(done)
