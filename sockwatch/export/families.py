"""A Snapshot as Prometheus metric families: the public interface, names and labels included.

Every family is made anew from the Snapshot, so a label set that is gone from it is gone from the
metrics. A value that nobody measured has no sample. `FAMILIES` is the registry that
documentation, golden file and tests walk.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from sockwatch import __version__
from sockwatch.export.figure_families import FIGURE_FAMILIES
from sockwatch.export.port_families import PORT_FAMILIES, untold
from sockwatch.export.stuck_families import STUCK_FAMILIES
from sockwatch.observe.snapshot import NamespaceView, PassStatus, Snapshot
from sockwatch.tcp.model import phase_of
from sockwatch.tcp.states import State

Labelled = Iterable[tuple[tuple[str, ...], float]]
"""Label values and the value of each sample."""

_ALWAYS: Final = (State.ESTABLISHED, State.CLOSE_WAIT)
"""States that every service shows even at zero, once they are counted: alerts and ratios need
their series."""


def _gauge(name: str, meaning: str, labels: str, samples: Labelled) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=labels.split())
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _counter(name: str, meaning: str, labels: str, samples: Labelled) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=labels.split())
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _sockets(snapshot: Snapshot) -> Metric:
    return _gauge(
        "sockwatch_tcp_sockets",
        "TCP sockets by state, as of the last pass that counted the state.",
        "family state phase netns",
        (
            ((family.label, state.label, phase_of(state), view.netns), number)
            for view in snapshot.namespaces
            for (family, state), number in view.sockets.items()
        ),
    )


def _multipath(snapshot: Snapshot) -> Metric:
    return _gauge(
        "sockwatch_mptcp_connections",
        "MPTCP connections by their own state, as of the last pass that counted the state; their "
        "paths are among sockwatch_tcp_sockets. Absent if the kernel has no MPTCP.",
        "family state phase netns",
        (
            ((family.label, state.label, phase_of(state), view.netns), number)
            for view in snapshot.namespaces
            for (family, state), number in (view.multipath or {}).items()
        ),
    )


def _peaks(snapshot: Snapshot) -> Metric:
    peaks: Counter[State] = Counter()
    for view in snapshot.namespaces:
        peaks.update(view.peaks)
    return _gauge(
        "sockwatch_tcp_connections_peak",
        "Highest host total of a state that any pass of the last minute saw: bursts between "
        "scrapes. ESTABLISHED and TIME_WAIT are seen by a census only.",
        "state",
        (((state.label,), number) for state, number in peaks.items()),
    )


def _unowned(snapshot: Snapshot) -> Metric:
    return _gauge(
        "sockwatch_tcp_unowned_sockets",
        "TCP sockets that no process holds, as of the last pass: half_open (SYN_RECV), "
        "not_accepted (wait for accept), orphan (closed by the process, not by the peer), "
        "mini (TIME_WAIT, or FIN_WAIT2 held by the kernel).",
        "kind netns",
        (
            ((kind, view.netns), number)
            for view in snapshot.namespaces
            for kind, number in (view.unowned or {}).items()
        ),
    )


def _connections(snapshot: Snapshot) -> Metric:
    return _gauge(
        "sockwatch_tcp_connections",
        "TCP connections by service and state, as of the last pass that counted the state. port is "
        "the local port of inbound connections and the remote port of outbound ones; unit the "
        "systemd unit or container, empty if unknown. An MPTCP connection counts once, in its own "
        "state, and its paths do not.",
        "direction port unit state phase netns",
        (
            ((*service, state.label, phase_of(state), view.netns), states.get(state, 0))
            for view in snapshot.namespaces
            for always in [_counted(view).intersection(_ALWAYS)]
            for service, states in view.services.items()
            for state in sorted(always.union(states))
        ),
    )


def _counted(view: NamespaceView) -> frozenset[State]:
    """The states that any pass has counted."""
    return frozenset(state for _, state in view.sockets)


def _folded(snapshot: Snapshot) -> Metric:
    views = snapshot.namespaces
    return _gauge(
        "sockwatch_folded_label_sets",
        "Services beyond the series limit, and listeners beyond 1,000, that are added up under "
        "port and unit other.",
        "",
        [((), sum(view.folded + untold(view) for view in views))] if views else [],
    )


def _build_info(_: Snapshot) -> Metric:
    return _gauge(
        "sockwatch_build_info",
        "Version of sockwatch and of the Python that runs it; always 1.",
        "version python_version",
        [((__version__, platform.python_version()), 1)],
    )


def _source_info(snapshot: Snapshot) -> Metric:
    return _gauge(
        "sockwatch_source_info",
        "Where the sockets are read from, netlink or psutil; always 1.",
        "source",
        [((snapshot.source.name,), 1)],
    )


def _by_pass(snapshot: Snapshot, value: Callable[[PassStatus], float | None]) -> Labelled:
    """One sample per pass, none where the value is not known yet."""
    for kind, status in snapshot.passes.items():
        number = value(status)
        if number is not None:
            yield (kind,), number


def _duration(snapshot: Snapshot) -> Metric:
    return _gauge(
        "sockwatch_pass_duration_seconds",
        "Wall time that the last good pass took.",
        "pass",
        _by_pass(snapshot, lambda status: status.duration),
    )


def _cpu(snapshot: Snapshot) -> Metric:
    return _counter(
        "sockwatch_pass_cpu_seconds",
        "CPU time spent in passes, user and system.",
        "pass",
        _by_pass(snapshot, lambda status: status.cpu_seconds),
    )


def _interval(snapshot: Snapshot) -> Metric:
    return _gauge(
        "sockwatch_pass_interval_seconds",
        "Effective time from one pass to the next, as stretched by the CPU budget.",
        "pass",
        _by_pass(snapshot, lambda status: status.interval),
    )


def _last_pass(snapshot: Snapshot) -> Metric:
    return _gauge(
        "sockwatch_last_pass_timestamp_seconds",
        "Unix time when the last good pass ended; what it measured is as of then.",
        "pass",
        _by_pass(snapshot, lambda status: status.last_success),
    )


def _passes(snapshot: Snapshot) -> Metric:
    return _counter(
        "sockwatch_passes",
        "Passes attempted, failed ones included.",
        "pass",
        _by_pass(snapshot, lambda status: status.passes),
    )


def _failures(snapshot: Snapshot) -> Metric:
    return _counter(
        "sockwatch_pass_failures",
        "Passes discarded, by cause; the last good values stay.",
        "pass cause",
        (
            ((kind, cause), number)
            for kind, status in snapshot.passes.items()
            for cause, number in status.failures.items()
        ),
    )


def _success(snapshot: Snapshot) -> Metric:
    return _gauge(
        "sockwatch_collector_success",
        "Whether the newest pass of each kind was good.",
        "collector",
        (
            ((kind,), float(status.last_failure is None))
            for kind, status in snapshot.passes.items()
            if status.passes
        ),
    )


FAMILIES: Final[tuple[Callable[[Snapshot], Metric], ...]] = (
    _sockets,
    _multipath,
    _unowned,
    _connections,
    _folded,
    _peaks,
    *STUCK_FAMILIES,
    *PORT_FAMILIES,
    *FIGURE_FAMILIES,
    _build_info,
    _source_info,
    _duration,
    _cpu,
    _interval,
    _last_pass,
    _passes,
    _failures,
    _success,
)


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """All families of a Snapshot, in catalogue order."""
    return (make(snapshot) for make in FAMILIES)
