"""The psutil source: fewer facts, dearer, but it needs nothing except /proc.

There are no cookies, queues, inodes or cgroups here; those fields stay `None`. psutil answers with
a set, so listeners that share an address (SO_REUSEPORT) are one where their processes cannot be
seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from socket import inet_pton
from typing import Any, ClassVar, Final

from sockwatch.kernel.batches import batches_of_rows
from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.kernel.ports import ephemeral_flags
from sockwatch.tcp.follow import Follower
from sockwatch.tcp.listening import Listening
from sockwatch.tcp.records import Reading, Row
from sockwatch.tcp.states import Family, State
from sockwatch.tcp.tally import Tally

Connections = Callable[[], Iterable[Any]]
"""psutil.net_connections for TCP: records with family, laddr, raddr and status."""

_BULK: Final = frozenset({State.ESTABLISHED, State.TIME_WAIT})
_BY_STATUS: Final = {state.name: state for state in State}
"""psutil's status constants are spelled like the kernel's names."""


def _tcp_connections() -> Iterable[Any]:
    import psutil  # noqa: PLC0415  only this source pays for it

    return psutil.net_connections("tcp")


class PsutilSource:
    """Reads all sockets through psutil, whichever pass asks."""

    name: ClassVar[str] = "psutil"

    def __init__(self, connections: Connections = _tcp_connections) -> None:
        self._connections = connections

    def probe(self) -> None:
        """Read once.

        Raises:
            PassFailure: psutil cannot be used, and why.
        """
        self._rows()

    def watch(self, _follower: Follower | None = None) -> Reading:
        """Read listeners, half-open and closing connections; see `Source.watch`."""
        return replace(self.census(), bulk=None)

    def census(self, _follower: Follower | None = None) -> Reading:
        """Read every socket; see `Source.census`. Nothing is followed without cookies."""
        rows = self._rows()
        listeners = tuple(row for row in rows if row.state is State.LISTEN)
        listening = Listening(listeners, ephemeral_flags())
        watched, bulk = Tally(listening, unowned=False), Tally(listening, unowned=False)
        for batch in batches_of_rows(row for row in rows if row.state is not State.LISTEN):
            (bulk if batch.state in _BULK else watched).add(batch)
        return Reading(listeners, watched.finish(), bulk.finish())

    def close(self) -> None:
        """Nothing is kept open."""

    def _rows(self) -> list[Row]:
        import psutil  # noqa: PLC0415

        try:
            return [_row(connection) for connection in self._connections()]
        # What psutil cannot parse it answers with whatever its parser stumbled over.
        except (OSError, psutil.Error, RuntimeError, LookupError, ValueError) as error:
            why = f"reading /proc/net through psutil: {type(error).__name__}: {error}"
            raise PassFailure(Cause.UNREADABLE, why) from error


def _row(connection: Any) -> Row:  # noqa: ANN401  psutil's record, untyped
    family = Family(connection.family)
    source, source_port = _endpoint(family, connection.laddr)
    destination, destination_port = _endpoint(family, connection.raddr)
    state = _BY_STATUS.get(connection.status, State.UNKNOWN)
    return Row(family, state, source, source_port, destination, destination_port)


def _endpoint(family: Family, address: Any) -> tuple[bytes, int]:  # noqa: ANN401
    """Address and port; psutil gives an empty tuple where there is no peer."""
    if not address:
        return bytes(4 if family is Family.INET else 16), 0
    return inet_pton(family, address.ip), address.port
