"""Finds the stuck connections of a snapshot: filtered, grouped, and the oldest of them decoded.

Theory of operation. Stuck connections are packed in columns (see `Marked`), and there may be
200,000 of them. A search walks over the columns once and collects by what they have in common
since when those connections are stuck that the filter admits; mostly a whole batch has all of it
in common, which its columns tell at once. Services are named once for each combination of
direction, port and cgroup. Then it is known when the oldest ones entered that are to be told one
by one; only these are looked for again, and decoded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import nsmallest
from itertools import chain, compress, count, islice, repeat
from math import inf
from operator import and_, eq, lt
from socket import inet_ntop, ntohs
from typing import Final

from sockwatch.observe.leaks import Filter, Group, Leak, Leaks, Share
from sockwatch.observe.services import Namer
from sockwatch.observe.snapshot import OTHER, Marked, NamespaceView, ServiceKey, Stuck, StuckKey
from sockwatch.tcp.causes import ALL
from sockwatch.tcp.owners import Process
from sockwatch.tcp.states import Direction, Family, State
from sockwatch.tcp.tally import plain_address

_INET_BYTES: Final = 4
_DIRECTIONS: Final = (Direction.OUTBOUND, Direction.INBOUND)

_Key = tuple[State, int, int, int, int, int]
"""State, inbound flag, raw port of the service, cgroup, code of the cause, stride."""
_Place = tuple[float, int, int, int]
"""Moment of entry, number of the search, number of the batch in it, position in that."""


def find_leaks(views: Iterable[NamespaceView], wanted: Filter) -> Leaks | None:
    """Search these namespaces; `None` if ages are known in none of them."""
    searches = [_Search(view, view.stuck, wanted) for view in views if view.stuck is not None]
    if not searches:
        return None
    oldest = _oldest(searches, wanted)
    sockets = (searches[number].leak(batch, at) for _, number, batch, at in oldest)
    groups = chain.from_iterable(search.groups() for search in searches)
    stride = max(search.stride for search in searches)
    return Leaks(tuple(sorted(groups, key=_order)), tuple(sockets), stride)


def _order(group: Group) -> tuple[bool, int, float, Group]:
    return not group.leaking, -group.connections, -group.oldest, group


def _oldest(searches: Sequence[_Search], wanted: Filter) -> list[_Place]:
    """Those that are told one by one; of what entered at the same moment, what was read first."""
    moments = nsmallest(wanted.limit, chain.from_iterable(each.moments() for each in searches))
    if not moments:
        return []
    oldest = sorted(_places(searches, moments[-1], same=False))
    others = _places(searches, moments[-1], same=True)
    return [*oldest, *islice(others, len(moments) - len(oldest))]


def _places(searches: Sequence[_Search], moment: float, *, same: bool) -> Iterator[_Place]:
    for number, search in enumerate(searches):
        yield from search.places(number, moment, same=same)


class _Services(dict[_Key, ServiceKey | None]):
    """Services as groups have them, named when first asked for; `None` if not wanted."""

    def __init__(self, view: NamespaceView, units: Mapping[int, str], wanted: Filter) -> None:
        super().__init__()
        self.name = Namer(view.listeners, lambda cgroup: units.get(cgroup, ""))
        self._view = view
        self._wanted = wanted

    def __missing__(self, key: _Key) -> ServiceKey | None:
        _, inbound, raw_port, cgroup, *_ = key
        service = self.name(_DIRECTIONS[inbound], ntohs(raw_port), cgroup)
        grouped = self._folded(service)
        self[key] = grouped if self._wanted.admits(service, grouped) else None
        return self[key]

    def _folded(self, service: ServiceKey) -> ServiceKey:
        """The service as metrics have it: what bounds their series bounds groups, too."""
        if not self._view.folded or service in self._view.services:
            return service
        return ServiceKey(service.direction, OTHER, OTHER)


class _Search:
    """A search through one namespace."""

    def __init__(self, view: NamespaceView, stuck: Stuck, wanted: Filter) -> None:
        self.stride = stuck.stride
        self._netns = view.netns
        self._stuck = stuck
        self._wanted = wanted
        self._services = _Services(view, stuck.units, wanted)
        self._masks: dict[int, Sequence[int]] = {}
        """Which connections of a batch are wanted, by its number."""
        self._found: defaultdict[_Key, list[float]] = defaultdict(list)
        """Moments of entry of all that is wanted."""
        self._held: defaultdict[_Key, list[Process]] = defaultdict(list)
        """Who holds it, as often as there are connections."""
        for number, marked in enumerate(stuck.marked):
            if wanted.state in {None, marked.state} and marked.moments:
                self._take(number, marked)

    def _take(self, number: int, marked: Marked) -> None:
        alike = _common_key(marked)
        keys = [alike] * len(marked.moments) if alike else _keys(marked)
        self._masks[number] = mask = self._mask(marked, keys, alike)
        if alike:
            if any(mask):
                self._found[alike] += compress(marked.moments, mask)
        else:
            for key, moment in compress(zip(keys, marked.moments, strict=True), mask):
                self._found[key].append(moment)
        owners = self._stuck.owners
        if owners and not owners.keys().isdisjoint(inodes := marked.records.inode_numbers()):
            for key, inode in compress(zip(keys, inodes, strict=True), mask):
                if inode in owners:
                    self._held[key] += owners[inode].processes

    def _mask(self, marked: Marked, keys: Sequence[_Key], alike: _Key | None) -> Sequence[int]:
        """Which connections are wanted."""
        taken, older_than, services = self._stuck.taken, self._wanted.older_than, self._services
        every = bytes([True]) * len(keys)
        if self._wanted.port is not None or self._wanted.unit is not None:
            if alike:
                every = every if services[alike] else bytes(len(keys))
            else:
                every = bytes([services[key] is not None for key in keys])
        if not older_than:
            return every
        return [*map(and_, every, [taken - moment >= older_than for moment in marked.moments])]

    def moments(self) -> Iterator[float]:
        """Since when, for each connection that is wanted."""
        return chain.from_iterable(self._found.values())

    def places(self, number: int, moment: float, *, same: bool) -> Iterator[_Place]:
        """Where those are that are wanted and entered before a moment, or at that very one."""
        for batch, mask in self._masks.items():
            moments = self._stuck.marked[batch].moments
            if moment in moments if same else min(moments) < moment:
                hits = map(eq if same else lt, moments, repeat(moment))
                for at in compress(count(), map(and_, mask, hits)):
                    yield moments[at], number, batch, at

    def groups(self) -> Iterator[Group]:
        """What was counted."""
        numbers: Counter[StuckKey] = Counter()
        since: dict[StuckKey, float] = {}
        held: defaultdict[StuckKey, Counter[Process]] = defaultdict(Counter)
        for key, moments in self._found.items():
            name, earliest, stride = self._name(key), min(moments), key[-1]
            numbers[name] += len(moments) * stride
            since[name] = min(earliest, since.get(name, inf))
            for process, number in Counter(self._held[key]).items():
                held[name][process] += number * stride
        for name, number in numbers.items():
            yield Group(
                self._netns,
                *name,
                connections=number,
                oldest=self._stuck.taken - since[name],
                at_least=since[name] in self._stuck.lower_bounds,
                shares=_shares(held[name]),
            )

    def _name(self, key: _Key) -> StuckKey:
        service = self._services[key]
        assert service is not None  # noqa: S101  only what is wanted is counted
        return StuckKey(service, key[0], ALL[key[-2]])

    def leak(self, batch: int, index: int) -> Leak:
        """A connection that `places` told of."""
        stuck, marked = self._stuck, self._stuck.marked[batch]
        ends, moment = marked.records.ends(index), marked.moments[index]
        direction = _DIRECTIONS[marked.inbound[index]]
        port = ends.local_port if marked.inbound[index] else ends.remote_port
        owners = stuck.owners.get(ends.inode)
        return Leak(
            netns=self._netns,
            state=marked.state,
            cause=ALL[marked.causes[index]],
            age=stuck.taken - moment,
            at_least=moment in stuck.lower_bounds,
            direction=direction,
            local=_address(ends.local),
            local_port=ends.local_port,
            remote=_address(ends.remote),
            remote_port=ends.remote_port,
            unit=self._services.name(direction, port, marked.cgroups[index]).unit,
            # Without a file the record has root's on older kernels, and none at all of a request.
            uid=ends.uid if ends.uid or ends.inode else None,
            inode=ends.inode,
            processes=owners.processes if owners else (),
            holders=owners.count if owners else None,
            multipath=marked.multipath,
        )


def _shares(held: Counter[Process]) -> tuple[Share, ...]:
    ordered = sorted(held.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Share(process, number) for process, number in ordered)


def _common_key(marked: Marked) -> _Key | None:
    """What all connections of a batch have in common, `None` if they differ."""
    inbound, cgroup, cause = marked.inbound[0], marked.cgroups[0], marked.causes[0]
    number = len(marked.moments)
    counts = {
        marked.inbound.count(inbound),
        marked.causes.count(cause),
        marked.cgroups.count(cgroup),
    }
    if counts != {number}:
        return None
    ports = marked.records.local_ports() if inbound else marked.records.remote_ports()
    if ports.count(ports[0]) != number:
        return None
    return marked.state, inbound, ports[0], cgroup, cause, marked.stride


def _keys(marked: Marked) -> list[_Key]:
    records = marked.records
    sides = zip(marked.inbound, records.local_ports(), records.remote_ports(), strict=True)
    ports = [here if inbound else there for inbound, here, there in sides]
    columns = (marked.inbound, ports, marked.cgroups, marked.causes, repeat(marked.stride))
    return [*zip(repeat(marked.state), *columns, strict=False)]


def marked_inodes(stuck: Stuck) -> Iterator[int]:
    """Inodes of all stuck connections that a process holds."""
    return chain.from_iterable(
        filter(None, marked.records.inode_numbers()) for marked in stuck.marked
    )


def _address(packed: bytes) -> str:
    plain = plain_address(packed)
    return inet_ntop(Family.INET if len(plain) == _INET_BYTES else Family.INET6, plain)
