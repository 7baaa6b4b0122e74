"""Which services are told apart where there are more than label sets for them.

Interesting is what has connections in opening or closing states, then what was shown before (so
that label sets do not come and go), then what is large. Last come those that have only TIME_WAIT
and that nobody listens for: what a listener that is gone leaves behind looks like a service for
each connection, and would crowd out idle listeners.

Theory of operation. Most services have nothing but healthy connections, which a census counts, and
so do not change between two of them. Those are put in order once; then every watch takes as many of
the first as there is room for beside those in trouble.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Final, NamedTuple

from sockwatch.observe.snapshot import OTHER, ServiceKey
from sockwatch.tcp.states import Direction, State

Services = Mapping[ServiceKey, Mapping[State, int]]

_HEALTHY: Final = frozenset({State.ESTABLISHED, State.TIME_WAIT})


_Sums = dict[Direction, Counter[State | None]]
"""Connections by direction and state; under `None` how many services they are of."""


class _Groups(NamedTuple):
    """Services by what they have, and how much of it."""

    troubled: Collection[ServiceKey]
    others: tuple[Mapping[ServiceKey, int], ...]
    """Each group comes before the next, whatever was shown."""


class Ranking:
    """Services of which not all are told apart."""

    def __init__(self, found: Services) -> None:
        """Rank services; they must not change."""
        self._found = found
        self._ordered: dict[int, Sequence[ServiceKey]] = {}

    def fold(
        self, changed: Services, limit: int, shown: Mapping[ServiceKey, object]
    ) -> tuple[Services, int]:
        """Keep the `limit` most interesting services and add the others up as `other`.

        Args:
            changed: services that are new or have other connections now.
            limit: how many to keep.
            shown: those kept before, in the order in which they were.

        Returns:
            The services with at most one `other` per direction, and how many were folded.
        """
        number = len(self._found) + len(changed.keys() - self._found.keys())
        if number <= limit:
            return {**self._found, **changed}, 0
        kept = {
            key: changed[key] if key in changed else self._found[key]
            for key in islice(self._ranked(changed, shown), limit)
        }
        return kept | self._others(changed, kept), number - limit

    def _ranked(
        self, changed: Services, shown: Mapping[ServiceKey, object]
    ) -> Iterator[ServiceKey]:
        def trouble(key: ServiceKey) -> tuple[int, bool, int]:
            states = changed.get(key) or self._found[key]
            total = sum(states.values())
            return total - _healthy(states), key in shown, total

        troubled = {**dict.fromkeys(self._groups.troubled), **dict.fromkeys(changed)}
        yield from sorted(troubled, key=trouble, reverse=True)
        for group, sizes in enumerate(self._groups.others):
            mine = filter(sizes.__contains__, shown)
            yield from (key for key in _largest_first(mine, sizes) if key not in changed)
            rest = self._in_order(group)
            yield from (key for key in rest if key not in shown and key not in changed)

    def _in_order(self, group: int) -> Sequence[ServiceKey]:
        """A group from the largest to the smallest, asked for only where there is room for more."""
        if group not in self._ordered:
            sizes = self._groups.others[group]
            self._ordered[group] = _largest_first(sizes, sizes)
        return self._ordered[group]

    @cached_property
    def _groups(self) -> _Groups:
        troubled: list[ServiceKey] = []
        busy, idle, residue = (dict[ServiceKey, int]() for _ in range(3))
        for key, states in self._found.items():
            if not states:
                idle[key] = 0
            elif len(states) > 1 and not states.keys() <= _HEALTHY:
                troubled.append(key)
            elif State.ESTABLISHED in states:
                busy[key] = sum(states.values())
            elif State.TIME_WAIT in states:
                group = residue if key.direction is Direction.OUTBOUND else busy
                group[key] = states[State.TIME_WAIT]
            else:
                troubled.append(key)
        return _Groups(troubled, (busy, idle, residue))

    @cached_property
    def _sums(self) -> _Sums:
        return _added_up(self._found)

    def _others(self, changed: Services, kept: Services) -> dict[ServiceKey, Mapping[State, int]]:
        """What is folded, added up by direction."""
        replaced = {key: self._found[key] for key in changed if key in self._found}
        less, more, told = map(_added_up, (replaced, changed, kept))
        result: dict[ServiceKey, Mapping[State, int]] = {}
        for direction, found in self._sums.items():
            rest = found.copy()
            rest.update(more[direction])
            rest.subtract(less[direction])
            rest.subtract(told[direction])
            if rest.pop(None, 0):
                other = ServiceKey(direction, OTHER, OTHER)
                result[other] = {state: n for state, n in rest.items() if state is not None and n}
        return result


def _healthy(states: Mapping[State, int]) -> int:
    return states.get(State.ESTABLISHED, 0) + states.get(State.TIME_WAIT, 0)


def _largest_first(keys: Iterable[ServiceKey], sizes: Mapping[ServiceKey, int]) -> list[ServiceKey]:
    """Of equals that which comes first."""
    return sorted(keys, key=sizes.__getitem__, reverse=True)


def _added_up(found: Services) -> _Sums:
    sums: _Sums = {}
    for direction in Direction:
        some = [states for key, states in found.items() if key[0] is direction]
        into = sums[direction] = Counter({None: len(some)})
        for state in set[State]().union(*some):
            into[state] = sum([states.get(state, 0) for states in some])
    return sums
