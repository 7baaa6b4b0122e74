"""Finds the stuck connections of a snapshot: filtered, grouped, and the oldest of them decoded.

Theory of operation. Stuck connections are packed in columns (see `Marked`), and there may be
200,000 of them. A search walks over the columns once and collects by what they have in common
since when those connections are stuck that the filter admits. Services are named once for each
combination of direction, port and cgroup. Then it is known when the oldest ones entered that are
to be told one by one; only these are looked for again, and decoded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import nsmallest
from itertools import chain, compress, count, repeat
from math import inf
from socket import inet_ntop, ntohs
from struct import Struct
from typing import Final

from sockwatch.observe.leaks import Filter, Group, Leak, Leaks, Share
from sockwatch.observe.services import Namer
from sockwatch.observe.snapshot import OTHER, Marked, NamespaceView, ServiceKey, Stuck, StuckKey
from sockwatch.tcp.causes import ALL
from sockwatch.tcp.owners import Process
from sockwatch.tcp.states import Direction, Family, State
from sockwatch.tcp.tally import plain_address

_RECORD: Final = Struct("=B 3x H H 16s 16s 24x I I")
"""Of struct inet_diag_msg (`include/uapi/linux/inet_diag.h`): family, local and remote port as
read natively, local and remote address, uid, inode."""
_HALF_WORDS: Final = _RECORD.size // 2
_LOCAL_PORT, _REMOTE_PORT = 2, 3
"""Half-words of a record."""
_WORDS: Final = _RECORD.size // 4
_INODE: Final = 17
"""Word of a record."""
_SIZES: Final = {Family.INET.value: 4, Family.INET6.value: 16}
_DIRECTIONS: Final = (Direction.OUTBOUND, Direction.INBOUND)

_Key = tuple[State, int, int, int, int]
"""State, inbound flag, raw port of the service, cgroup, code of the cause."""
_Place = tuple[float, int, int, int]
"""Moment of entry, number of the search, number of the batch in it, position in that."""


def find_leaks(views: Iterable[NamespaceView], wanted: Filter) -> Leaks | None:
    """Search these namespaces; `None` if ages are known in none of them."""
    searches = [_Search(view, view.stuck, wanted) for view in views if view.stuck is not None]
    if not searches:
        return None
    moments = chain.from_iterable(search.moments() for search in searches)
    oldest = nsmallest(wanted.limit, moments)
    places = chain.from_iterable(
        search.places(number, oldest[-1]) for number, search in enumerate(searches) if oldest
    )
    sockets = [
        searches[number].leak(batch, index)
        for _, number, batch, index in nsmallest(wanted.limit, places)
    ]
    groups = chain.from_iterable(search.groups() for search in searches)
    stride = max(search.stride for search in searches)
    return Leaks(tuple(sorted(groups, key=_order)), tuple(sockets), stride)


def _order(group: Group) -> tuple[bool, int, float, Group]:
    return not group.leaking, -group.connections, -group.oldest, group


class _Services(dict[_Key, ServiceKey | None]):
    """Services as groups have them, named when first asked for; `None` if not wanted."""

    def __init__(self, view: NamespaceView, units: Mapping[int, str], wanted: Filter) -> None:
        super().__init__()
        self.name = Namer(view.listeners, lambda cgroup: units.get(cgroup, ""))
        self._view = view
        self._wanted = wanted

    def __missing__(self, key: _Key) -> ServiceKey | None:
        _, inbound, raw_port, cgroup, _ = key
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
        self._batches = [
            (number, marked)
            for number, marked in enumerate(stuck.marked)
            if wanted.state in {None, marked.state}
        ]
        self._found: defaultdict[_Key, list[float]] = defaultdict(list)
        """Moments of entry of all that is wanted."""
        self._held: Counter[tuple[_Key, Process]] = Counter()
        for _, marked in self._batches:
            self._take(marked)

    def _take(self, marked: Marked) -> None:
        keys, found = _keys(marked), self._found
        mask = self._mask(marked, keys)
        for key, moment in zip(compress(keys, mask), compress(marked.moments, mask), strict=True):
            found[key].append(moment)
        owners = self._stuck.owners
        if not owners:
            return
        for key, inode in zip(compress(keys, mask), compress(_inodes(marked), mask), strict=True):
            if inode in owners:
                self._held.update((key, process) for process in owners[inode].processes)

    def _mask(self, marked: Marked, keys: Sequence[_Key] | None = None) -> Sequence[int]:
        """Which connections are wanted; their keys are made if need be."""
        taken, older_than, services = self._stuck.taken, self._wanted.older_than, self._services
        if self._wanted.port is None and self._wanted.unit is None and not older_than:
            return bytes([True]) * len(marked.moments)
        return [
            services[key] is not None and taken - moment >= older_than
            for key, moment in zip(keys or _keys(marked), marked.moments, strict=True)
        ]

    def moments(self) -> Iterator[float]:
        """Since when, for each connection that is wanted."""
        return chain.from_iterable(self._found.values())

    def places(self, number: int, latest: float) -> Iterator[_Place]:
        """Where those are that entered their state at `latest` or before."""
        for batch, marked in self._batches:
            if min(marked.moments, default=inf) <= latest:
                places = zip(marked.moments, repeat(number), repeat(batch), count(), strict=False)
                wanted = compress(places, self._mask(marked))
                yield from (place for place in wanted if place[0] <= latest)

    def groups(self) -> Iterator[Group]:
        """What was counted."""
        numbers: Counter[StuckKey] = Counter()
        since: dict[StuckKey, float] = {}
        held: dict[StuckKey, Counter[Process]] = {}
        for key, moments in self._found.items():
            name, earliest = self._name(key), min(moments)
            numbers[name] += len(moments)
            since[name] = min(earliest, since.get(name, inf))
        for (key, process), number in self._held.items():
            held.setdefault(self._name(key), Counter())[process] += number
        for name, number in numbers.items():
            yield Group(
                self._netns,
                *name,
                connections=number * self.stride,
                oldest=self._stuck.taken - since[name],
                at_least=since[name] in self._stuck.lower_bounds,
                shares=self._shares(held.get(name, Counter())),
            )

    def _shares(self, held: Counter[Process]) -> tuple[Share, ...]:
        ordered = sorted(held.items(), key=lambda item: (-item[1], item[0]))
        return tuple(Share(process, number * self.stride) for process, number in ordered)

    def _name(self, key: _Key) -> StuckKey:
        service = self._services[key]
        assert service is not None  # noqa: S101  only what is wanted is counted
        return StuckKey(service, key[0], ALL[key[-1]])

    def leak(self, batch: int, index: int) -> Leak:
        """A connection that `walk` told of."""
        stuck, marked = self._stuck, self._stuck.marked[batch]
        family, local_port, remote_port, local, remote, uid, inode = _RECORD.unpack_from(
            marked.records, index * _RECORD.size
        )
        moment, size, owners = marked.moments[index], _SIZES[family], stuck.owners.get(inode)
        direction = _DIRECTIONS[marked.inbound[index]]
        port = ntohs(local_port if marked.inbound[index] else remote_port)
        return Leak(
            netns=self._netns,
            state=marked.state,
            cause=ALL[marked.causes[index]],
            age=stuck.taken - moment,
            at_least=moment in stuck.lower_bounds,
            direction=direction,
            local=_address(local[:size]),
            local_port=ntohs(local_port),
            remote=_address(remote[:size]),
            remote_port=ntohs(remote_port),
            unit=self._services.name(direction, port, marked.cgroups[index]).unit,
            # Without a file the record has root's on older kernels, and none at all of a request.
            uid=uid if uid or inode else None,
            inode=inode,
            processes=owners.processes if owners else (),
            holders=owners.count if owners else None,
            multipath=marked.multipath,
        )


def _keys(marked: Marked) -> list[_Key]:
    half_words = memoryview(marked.records).cast("H")
    local = half_words[_LOCAL_PORT::_HALF_WORDS].tolist()
    remote = half_words[_REMOTE_PORT::_HALF_WORDS].tolist()
    sides = zip(marked.inbound, local, remote, strict=True)
    ports = [here if inbound else there for inbound, here, there in sides]
    columns = (marked.inbound, ports, marked.cgroups, marked.causes)
    return [*zip(repeat(marked.state), *columns, strict=False)]


def marked_inodes(stuck: Stuck) -> Iterator[int]:
    """Inodes of all stuck connections that a process holds."""
    return filter(None, chain.from_iterable(map(_inodes, stuck.marked)))


def _inodes(marked: Marked) -> list[int]:
    return memoryview(marked.records).cast("I")[_INODE::_WORDS].tolist()


def _address(packed: bytes) -> str:
    plain = plain_address(packed)
    return inet_ntop(Family.INET if len(plain) == _SIZES[Family.INET] else Family.INET6, plain)
