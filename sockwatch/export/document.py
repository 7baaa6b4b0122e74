"""A Snapshot as a JSON-ready document: `sockwatch report --json` and `/api/v1/snapshot`.

`/api/v1/listeners` has version, host and taken_seconds of it, and all listeners in one list, each
with its netns.

The keys are a public interface: they are all always present, and more may be added. `null` is
what is not known or does not apply, never zero. Times are Unix times, times and durations are in
seconds. Names of states, directions, ports and units are those of the metric labels, so a port is
a string (`"other"` holds the services folded together). Strings come as they were read: escape
them before printing.

    version        of sockwatch
    host           {name, kernel}
    taken_seconds  when the newest pass ended
    source         {name, reason, since_seconds}
    passes         by name of the pass:
        interval_seconds, configured_interval_seconds
        passes                    finished ones, good or failed
        failures                  {cause: count}
        last_failure              why the newest pass failed, null if it succeeded
        last_success_seconds      when the last good pass ended
        duration_seconds          wall time of the last good pass
        cpu_seconds               CPU time of all passes
    findings       what looks wrong, gravest kind first:
        kind       stale, accept_queue, syn_queue, syn_flood, close_wait, ephemeral_ports,
                   unanswered, syn_sent, fin_wait2, memory, time_wait, orphans or source
        message    what was seen, safe to print
        meaning    what it means and who has to act, safe to print
        count, limit, netns, direction, port, unit, address, destination
    namespaces     the host's own first:
        netns      name, "" for the host's own
        sockets    {family: {state: count}}, every family and state; null = never measured
        mptcp      {family: {state: count}} of MPTCP connections, each of which stands in place of
                   its TCP sockets in services and stuck; null if the kernel has no MPTCP
        phases     {phase: count}, both families; null = nothing of it measured
        unowned    {kind: count}; null where the source cannot know
        services   [{direction, port, unit, states: {state: count}}], states without any left out
        folded     number of services folded into "other"
        listeners  [{family, address, port, unit, sockets, full, queue, limit, peak, half_open,
                   half_open_resent, drops, processes: [{pid, name, started_seconds}]}]; full are
                   those sockets whose own accept queue is, null if unknown; the limit is that of
                   both queues; resent are those half-open ones whose SYN+ACK was sent again;
                   processes as far as known, the oldest first, started after boot
        destinations
                   as of the last census, null before the first:
            ports            ephemeral ports there are
            in_use_max       the most of them in use toward any one destination
            crowded          [{source, destination, in_use, time_wait}] of those over a tenth, at
                             most 20, the fullest first; time_wait of in_use are in that state
            unanswered       [{destination, connections}] in syn_sent for too long, from 3 on, at
                             most 20; null where the source cannot know
        peaks      {state: the highest count of the last minute}
        stuck      connections over the age limit of their state; null if ages are not known:
            connections      [{direction, port, unit, state, cause, connections}]
            oldest           [{direction, port, unit, state, age_seconds}], every watched state,
                             whatever its age limit
            limits           {state: seconds}
            followed, followed_limit
                             how many connections are followed, and may be
            stride           one of how many is followed; unless 1 numbers are estimates
        figures    what the kernel counts and limits; each null, or all of it, if not read:
            counters         {name: count since the namespace began}, as in
                             sockwatch_tcp_<name>_total
            aborts           {reason: count since the namespace began}
            lately           {seconds, counters: {name: count within them}}, null at a first look
            time_wait        {sockets, limit}
            ephemeral_ports  ports that connect() chooses from
            somaxconn, max_syn_backlog
            host             those of the whole host; null in all namespaces but the first:
                orphans  {sockets, limit}
                memory   {bytes, low, pressure, high}, all in bytes
                hidden   sockets that are in no table
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import chain
from operator import attrgetter
from typing import Any, Final

from sockwatch import __version__
from sockwatch.export.findings import Finding
from sockwatch.export.host import Host
from sockwatch.observe.figures import ABORTS, COUNTERS, MEMORY_LEVELS, Figures, HostFigures, Lately
from sockwatch.observe.snapshot import (
    Destinations,
    Listener,
    NamespaceView,
    PassStatus,
    ServiceKey,
    Snapshot,
    SourceStatus,
    Stuck,
)
from sockwatch.tcp.model import Phase, phase_of
from sockwatch.tcp.owners import Owners
from sockwatch.tcp.states import Family, State

__all__ = ["Document", "Host", "document", "listeners_document"]

Document = dict[str, Any]
"""What `json.dumps` takes."""

_STATES: Final = sorted(State, key=lambda state: state or len(State))
"""As the kernel numbers them, `unknown` last."""


def document(snapshot: Snapshot, findings: tuple[Finding, ...], host: Host) -> Document:
    """The snapshot as the module's docstring describes it."""
    return {
        "version": __version__,
        "host": host._asdict(),
        "taken_seconds": snapshot.taken,
        "source": _source(snapshot.source),
        "passes": {kind.value: _pass(status) for kind, status in snapshot.passes.items()},
        "findings": [_finding(one) for one in findings],
        "namespaces": [_namespace(view) for view in snapshot.namespaces],
    }


def _source(source: SourceStatus) -> Document:
    return {"name": source.name, "reason": source.reason, "since_seconds": source.since}


def _pass(status: PassStatus) -> Document:
    return {
        "interval_seconds": status.interval,
        "configured_interval_seconds": status.configured_interval,
        "passes": status.passes,
        "failures": dict(sorted(status.failures.items())),
        "last_failure": status.last_failure,
        "last_success_seconds": status.last_success,
        "duration_seconds": status.duration,
        "cpu_seconds": status.cpu_seconds,
    }


def _finding(finding: Finding) -> Document:
    key, listener = finding.service, finding.listener
    return {
        "kind": finding.kind.value,
        "message": finding.message,
        "meaning": finding.meaning,
        "count": finding.count,
        "limit": finding.limit,
        "netns": finding.netns,
        **(key._asdict() if key else dict.fromkeys(ServiceKey._fields)),
        "address": listener.address if listener else None,
        "destination": finding.destination,
    }


def _namespace(view: NamespaceView) -> Document:
    services = sorted(view.services, key=_service_order)
    return {
        "netns": view.netns,
        "sockets": {
            family.label: {state.label: view.sockets.get((family, state)) for state in _STATES}
            for family in Family
        },
        "mptcp": view.multipath and _multipath(view.multipath),
        "phases": {phase.value: _phase(view, phase) for phase in Phase},
        "unowned": view.unowned and {kind.value: n for kind, n in sorted(view.unowned.items())},
        "services": [_service(view, key) for key in services],
        "folded": view.folded,
        "listeners": _listeners(view),
        "destinations": view.destinations and _destinations(view.destinations),
        "peaks": {state.label: count for state, count in sorted(view.peaks.items())},
        "stuck": view.stuck and _stuck(view.stuck),
        "figures": view.figures and _figures(view.figures),
    }


def _multipath(counted: Mapping[tuple[Family, State], int]) -> Document:
    found: Document = {family.label: {} for family in Family}
    for (family, state), number in counted.items():
        found[family.label][state.label] = number
    return found


def _phase(view: NamespaceView, phase: Phase) -> int | None:
    counts = [count for (_, state), count in view.sockets.items() if phase_of(state) is phase]
    return sum(counts) if counts else None


def _service(view: NamespaceView, key: ServiceKey) -> Document:
    states = view.services[key]
    return {
        **key._asdict(),
        "states": {state.label: states[state] for state in _STATES if states.get(state)},
    }


def _service_order(key: ServiceKey) -> tuple[str, int, str, str]:
    return key.direction, len(key.port), key.port, key.unit


def listeners_document(snapshot: Snapshot, host: Host) -> Document:
    """The listeners alone."""
    return {
        "version": __version__,
        "host": host._asdict(),
        "taken_seconds": snapshot.taken,
        "listeners": [
            {"netns": view.netns, **one} for view in snapshot.namespaces for one in _listeners(view)
        ],
    }


def _listeners(view: NamespaceView) -> list[Document]:
    ordered = sorted(view.listeners, key=_listener_order)
    return [_listener(one) | {"processes": _holders(one, view.owners)} for one in ordered]


def _holders(listener: Listener, owners: Mapping[int, Owners]) -> list[Document]:
    known = [owners[inode].processes for inode in listener.inodes if inode in owners]
    processes = sorted({*chain.from_iterable(known)}, key=attrgetter("started", "pid"))
    return [
        {"pid": process.pid, "name": process.name, "started_seconds": process.started}
        for process in processes
    ]


def _listener(listener: Listener) -> Document:
    return {
        "family": listener.family.label,
        "address": listener.address,
        "port": str(listener.port),
        "unit": listener.unit,
        "sockets": listener.sockets,
        "full": None if listener.queue is None else listener.full,
        "queue": listener.queue,
        "limit": listener.limit,
        "peak": listener.peak,
        "half_open": listener.half_open,
        "half_open_resent": listener.half_open_resent,
        "drops": listener.drops,
    }


def _listener_order(listener: Listener) -> tuple[int, Family, str, str]:
    return listener.port, listener.family, listener.address, listener.unit


def _destinations(found: Destinations) -> Document:
    return {
        "ports": found.ports,
        "in_use_max": found.in_use_max,
        "crowded": [asdict(use) for use in found.crowded],
        "unanswered": None if found.unanswered is None else _unanswered(found.unanswered),
    }


def _unanswered(found: Mapping[str, int]) -> list[Document]:
    return [{"destination": end, "connections": number} for end, number in found.items()]


def _stuck(stuck: Stuck) -> Document:
    return {
        "connections": [
            {
                **key.service._asdict(),
                "state": key.state.label,
                "cause": key.cause.value,
                "connections": number,
            }
            for key, number in sorted(stuck.connections.items())
        ],
        "oldest": [
            {**service._asdict(), "state": state.label, "age_seconds": age}
            for (service, state), age in sorted(stuck.oldest.items())
        ],
        "limits": {state.label: seconds for state, seconds in stuck.limits.items()},
        "followed": stuck.followed,
        "followed_limit": stuck.most_followed,
        "stride": stuck.stride,
    }


def _figures(figures: Figures) -> Document:
    return {
        "counters": {name: figures.counters.get(name) for name in COUNTERS},
        "aborts": {reason: figures.aborts.get(reason) for reason in ABORTS},
        "lately": figures.lately and _lately(figures.lately),
        "time_wait": {"sockets": figures.time_wait, "limit": figures.time_wait_limit},
        "ephemeral_ports": figures.ephemeral_ports,
        "somaxconn": figures.somaxconn,
        "max_syn_backlog": figures.max_syn_backlog,
        "host": figures.host and _host_figures(figures.host),
    }


def _lately(found: Lately) -> Document:
    return {
        "seconds": found.seconds,
        "counters": {name: found.counters.get(name) for name in COUNTERS},
    }


def _host_figures(figures: HostFigures) -> Document:
    levels = {level: figures.memory_limits.get(level) for level in MEMORY_LEVELS}
    return {
        "orphans": {"sockets": figures.orphans, "limit": figures.orphan_limit},
        "memory": {"bytes": figures.memory, **levels},
        "hidden": figures.hidden,
    }
