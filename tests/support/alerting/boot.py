"""Becomes the daemon as systemd would start it, under conditions that only a test wants.

python boot.py '{"descriptor": 7, "netlink": false, "hidden_every": 1.0}' --watch.interval=1s
"""

from __future__ import annotations

import errno
import json
import os
import sys
from unittest.mock import patch

import seccomp

from sockwatch.__main__ import main
from sockwatch.poll import figures


def boot(descriptor: int, *, netlink: bool, hidden_every: float) -> None:
    """Set the stage.

    Args:
        descriptor: of the listening socket.
        netlink: whether sockets of netlink may be opened.
        hidden_every: seconds for which the number of hidden sockets is kept; no flag sets them.
    """
    os.dup2(descriptor, 3)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
    patch.object(figures, "REFRESH", hidden_every).start()
    if not netlink:
        seccomp.refuse_netlink(errno.EPERM)


if __name__ == "__main__":
    boot(**json.loads(sys.argv[1]))
    sys.exit(main(["run", "--web.systemd-socket", *sys.argv[2:]]))
