"""What a client accepts: `Accept` and `Accept-Encoding` with q-values (RFC 9110, section 12.5).

Whatever is malformed is ignored by itself; what remains still counts. Nothing here raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from sockwatch.export.formats import Format

_QUOTED: Final = r'"(?:\\.|[^"\\])*"?'
_MEMBERS: Final = re.compile(rf'(?:[^,"]|{_QUOTED})+')
_PARAMETERS: Final = re.compile(rf'(?:[^;"]|{_QUOTED})+')
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105
_MEDIA_RANGE: Final = re.compile(f"({_TOKEN})/({_TOKEN})")
_CODING: Final = re.compile(_TOKEN)
_QUALITY: Final = re.compile(r"0(?:\.[0-9]*)?|1(?:\.0*)?")


class Wish(NamedTuple):
    """One member of an Accept header."""

    name: str
    """Media range or content coding, lower case."""
    quality: float
    version: str | None


class Offer(NamedTuple):
    """A format as a client may ask for it."""

    format: Format
    media_type: str
    versions: frozenset[str]


OFFERS: Final = (
    Offer(Format.OPENMETRICS_1_0_0, "application/openmetrics-text", frozenset({"1.0.0", "0.0.1"})),
    Offer(Format.TEXT_1_0_0, "text/plain", frozenset({"1.0.0"})),
    Offer(Format.TEXT_0_0_4, "text/plain", frozenset({"0.0.4"})),
)

_EXACT, _NAMED, _KIND, _ANY = 3, 2, 1, 0
"""How specific a match is: with version, media type, `type/*`, `*/*`."""

# Among equals the richest that was asked for by name; who names none gets what all can read.
_PREFERENCE: Final = {
    _EXACT: (Format.TEXT_0_0_4, Format.TEXT_1_0_0, Format.OPENMETRICS_1_0_0),
    _NAMED: (Format.TEXT_1_0_0, Format.TEXT_0_0_4, Format.OPENMETRICS_1_0_0),
    _KIND: (Format.OPENMETRICS_1_0_0, Format.TEXT_1_0_0, Format.TEXT_0_0_4),
    _ANY: (Format.OPENMETRICS_1_0_0, Format.TEXT_1_0_0, Format.TEXT_0_0_4),
}


@lru_cache(maxsize=32)
def choose_format(accept: str) -> Format:
    """The format that a client with this `Accept` header likes best.

    Where nothing acceptable is offered it is text 0.0.4, as Prometheus exporters do: a scrape
    that can be read beats a 406.
    """
    wishes = [wish for wish in _wishes(accept) if _MEDIA_RANGE.fullmatch(wish.name)]
    candidates = [
        (quality, specificity, _PREFERENCE[specificity].index(offer.format), offer.format)
        for offer in OFFERS
        for specificity, quality in [_match(offer, wishes)]
        if quality > 0
    ]
    return max(candidates)[-1] if candidates else Format.TEXT_0_0_4


@lru_cache(maxsize=32)
def prefers_gzip(accept_encoding: str) -> bool:
    """Whether to compress for a client with this `Accept-Encoding` header."""
    wishes = _wishes(accept_encoding)
    quality = {wish.name: wish.quality for wish in wishes if _CODING.fullmatch(wish.name)}
    gzip = quality.get("gzip", quality.get("x-gzip", quality.get("*", 0.0)))
    return gzip > 0 and gzip >= quality.get("identity", 0.0)


def _match(offer: Offer, wishes: list[Wish]) -> tuple[int, float]:
    """Specificity and quality of the most specific wish for the offer; (0, 0.0) if none."""
    return max(
        (
            (specificity, wish.quality)
            for wish in wishes
            if (specificity := _specificity(offer, wish)) is not None
        ),
        default=(_ANY, 0.0),
    )


def _specificity(offer: Offer, wish: Wish) -> int | None:
    if wish.version is not None and wish.version not in offer.versions:
        return None
    named = _NAMED if wish.version is None else _EXACT
    kind = offer.media_type.partition("/")[0]
    return {offer.media_type: named, f"{kind}/*": _KIND, "*/*": _ANY}.get(wish.name)


def _wishes(header: str) -> Iterator[Wish]:
    for member in _MEMBERS.findall(header):
        name, *rest = _PARAMETERS.findall(member) or [""]
        pairs = (parameter.partition("=") for parameter in rest)
        parameters = {key.strip().lower(): value.strip().strip('"') for key, _, value in pairs}
        quality = parameters.get("q", "1")
        if _QUALITY.fullmatch(quality):
            yield Wish(name.strip().lower(), float(quality), parameters.get("version"))
