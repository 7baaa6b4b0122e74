"""What the web configuration file asks of requests: a rate, a password; and headers of answers."""

from __future__ import annotations

import base64
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from sockwatch.web.access import AUTHENTICATED, site_of
from sockwatch.web.guard import Rejected
from sockwatch.web.passwords import Verdict
from sockwatch.web.protocol import REJECT
from sockwatch.web.responses import Header, Response, date, text
from sockwatch.web.server import Application

if TYPE_CHECKING:
    from sockwatch.web.protection import Protection, Rules

Scope = Mapping[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_ASK: Final = text(
    HTTPStatus.UNAUTHORIZED,
    "A name and a password are needed here.",
    (b"www-authenticate", b'Basic realm="sockwatch", charset="UTF-8"'),
)
_WRONG_TOO_OFTEN: Final = text(
    HTTPStatus.TOO_MANY_REQUESTS,
    "Too many wrong passwords; try again later.",
    (b"retry-after", b"5"),
)
_TOO_OFTEN: Final = text(
    HTTPStatus.TOO_MANY_REQUESTS, "Too many requests; try again later.", (b"retry-after", b"1")
)
_OF_VERDICT: Final = {
    Verdict.WRONG: (_ASK, Rejected.AUTHENTICATION),
    Verdict.LATER: (_WRONG_TOO_OFTEN, Rejected.RATE),
}


class Gate:
    """Lets requests through to an application that the rules allow.

    Args:
        app: what answers them.
        protection: whose rules these are.
        clock: seconds, never going back.
    """

    def __init__(
        self, app: Application, protection: Protection, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._protection = protection
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request, or have it answered."""
        rules = self._protection.rules()
        refused = self._over_rate(rules) or await self._unknown(rules, scope)
        dressed = _dressed(send, rules.file.headers) if rules.file.headers else send
        if refused is None:
            state = scope["state"]
            known = state.get(AUTHENTICATED, False) or bool(rules.file.users)
            await self._app({**scope, "state": {**state, AUTHENTICATED: known}}, receive, dressed)
        else:
            answer, why = refused
            scope["state"][REJECT](why)
            await _respond(answer, dressed)

    def _over_rate(self, rules: Rules) -> tuple[Response, Rejected] | None:
        limiter, now = rules.limiter, self._clock()
        if limiter is None:
            return None
        if limiter.level(now) < 1:
            return _TOO_OFTEN, Rejected.RATE
        limiter.take(1, now)
        return None

    async def _unknown(self, rules: Rules, scope: Scope) -> tuple[Response, Rejected] | None:
        if not rules.file.users:
            return None
        given = credentials(scope["headers"])
        if given is None:
            return _ASK, Rejected.AUTHENTICATION
        verdict = await self._protection.passwords.check(
            *given, site_of(scope["client"][0] if scope["client"] else "")
        )
        return _OF_VERDICT.get(verdict)


def credentials(headers: Iterable[Header]) -> tuple[str, bytes] | None:
    """Name and password of a request (RFC 7617); `None` if it has none, or more than one pair."""
    given = [value for name, value in headers if name == b"authorization"]
    if len(given) != 1:
        return None
    scheme, _, encoded = given[0].partition(b" ")
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (user.decode(), password) if colon and scheme.lower() == b"basic" else None
    except ValueError:
        return None


def _dressed(send: Send, wanted: Mapping[str, str]) -> Send:
    """Send with these headers instead of ours of the same name."""
    ours = {name.lower().encode() for name in wanted}
    extra = [(name.lower().encode(), value.encode()) for name, value in wanted.items() if value]

    async def send_dressed(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [header for header in message["headers"] if header[0] not in ours]
            message = {**message, "headers": kept + extra}
        await send(message)

    return send_dressed


async def _respond(answer: Response, send: Send) -> None:
    headers = [date(), *answer.headers]
    status = answer.status.value
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
