"""Stuck connections as JSON: `sockwatch leaks --json` and `/api/v1/leaks`.

    GET /api/v1/leaks?state=close_wait&port=8080&unit=app.service&older_than=5m&limit=100

Every parameter may be left out. `state` is a label; `port` is that of the service, so the local
one of inbound connections and the remote one of outbound ones; `unit` is the whole name, empty
for those whose unit is not known; `port` and `unit` may be `other`, as in the metrics;
`older_than` is a duration; `limit` is from 1 to 10,000 and 1,000 by default. What is wrong gets
400 and one sentence.

Keys, `null`, times, names and strings are as in `sockwatch.export.document`.

    version        of sockwatch
    host           {name, kernel}
    taken_seconds  as of when this is
    look           null if a daemon answers; else {seconds, why}: a command has looked itself, for
                   so long, and why. Ages are lower bounds then, and what has not moved
                   in that time is told, whatever its age limit
    filter         {state, port, unit, older_than_seconds, limit}; null where any is wanted
    connections    stuck ones that pass the filter; null if ages are not known
    stride         one of how many connections is followed; unless 1 all numbers are estimates
    groups         what has a service, a state and a cause in common; what leaks first, then by
                   number. The limit does not apply:
        netns, direction, port, unit, state, cause
        connections
        oldest_seconds   how long the oldest has been in the state
        at_least         whether it may be longer: nobody saw it enter
        leaking          whether an application lets them pile up, more than an idle pool keeps
        processes        [{pid, name, started_seconds, connections}], by number, as far as known
    sockets        the oldest first, at most as many as the limit:
        netns, direction, unit, state, cause
        protocol         tcp or mptcp
        age_seconds, at_least
        local, remote    {address, port}, the port a number
        uid              null where the kernel does not tell
        inode            0 if no process holds it
        processes        [{pid, name, started_seconds}], as far as known; started after boot
        holders          how many processes hold it, null if that is not known
    hidden         sockets of the host that are in no table: dead ones that their process has not
                   closed, or only made or bound; null if not known
    missing        what is not known and why, clauses for people
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sockwatch.export.leaks.answer import Answer
from sockwatch.observe.leaks import Filter, Group, Leak
from sockwatch.tcp.owners import Process

if TYPE_CHECKING:  # a command that tells of leaks need not load all the rest
    from sockwatch.export.document import Document

_PROTOCOLS: Final = ("tcp", "mptcp")


def leaks_document(answer: Answer) -> Document:
    """The answer as the module's docstring describes it."""
    leaks = answer.leaks
    return {
        "version": answer.version,
        "host": answer.host._asdict(),
        "taken_seconds": answer.taken,
        "look": answer.look and answer.look._asdict(),
        "filter": _filter(answer.wanted),
        "connections": None if leaks is None else leaks.connections,
        "stride": 1 if leaks is None else leaks.stride,
        "groups": [] if leaks is None else [_group(group) for group in leaks.groups],
        "sockets": [] if leaks is None else [_socket(leak) for leak in leaks.sockets],
        "hidden": answer.hidden,
        "missing": list(answer.missing),
    }


def _filter(wanted: Filter) -> Document:
    return {
        "state": wanted.state and wanted.state.label,
        "port": wanted.port,
        "unit": wanted.unit,
        "older_than_seconds": wanted.older_than,
        "limit": wanted.limit,
    }


def _group(group: Group) -> Document:
    return {
        "netns": group.netns,
        **group.service._asdict(),
        "state": group.state.label,
        "cause": group.cause.value,
        "connections": group.connections,
        "oldest_seconds": group.oldest,
        "at_least": group.at_least,
        "leaking": group.leaking,
        "processes": [
            _process(share.process) | {"connections": share.connections} for share in group.shares
        ],
    }


def _socket(leak: Leak) -> Document:
    return {
        "netns": leak.netns,
        "direction": leak.direction.value,
        "unit": leak.unit,
        "state": leak.state.label,
        "cause": leak.cause.value,
        "protocol": _PROTOCOLS[leak.multipath],
        "age_seconds": leak.age,
        "at_least": leak.at_least,
        "local": {"address": leak.local, "port": leak.local_port},
        "remote": {"address": leak.remote, "port": leak.remote_port},
        "uid": leak.uid,
        "inode": leak.inode,
        "processes": [_process(process) for process in leak.processes],
        "holders": leak.holders,
    }


def _process(process: Process) -> Document:
    return {"pid": process.pid, "name": process.name, "started_seconds": process.started}
