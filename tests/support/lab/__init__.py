"""A laboratory of live TCP sockets, in network namespaces that leave nothing behind.

    from lab import Namespace, Stage, eventually

    with Namespace(sysctls={"net.ipv4.ip_local_port_range": "40000 40099"}) as namespace:
        namespace.filter("tcp dport 7001 tcp flags & (syn | ack) == syn drop")
        with namespace.entered():                         # this thread, until the block ends
            server = socket.create_server(("127.0.0.1", 7000))
        print(namespace.run("ss", "-tan"))                # a command inside, to its end
        daemon = namespace.start("sockwatch", "run")      # one that is ended with the namespace
        leaker = namespace.fork(leak_sockets, 7000)       # a function of this process, likewise
        namespace.call(count_sockets, uid=65534)          # its value, seen by an unprivileged user

`Namespace` is an anonymous network namespace with `lo` up and both loopback addresses. It has no
name and no process: it lives by one descriptor of the test process, so that it ends with it even
when the test is killed. Leaving it ends every process inside and destroys its sockets; else an
orphan that waits for its last ACK would keep the namespace in the kernel for 107 s.

`Stage` brings sockets into every TCP state and keeps them there (`lab.recipes`).

What to know when writing scenarios:

- Sysctls are those of the namespace. `net.ipv4.tcp_max_orphans` and `net.ipv4.tcp_mem` belong to
  the whole host and do not exist inside, so the lab refuses them.
- In a thread that entered, `/proc/net` still shows the namespace of the process; read
  `/proc/thread-self/net`, as `Namespace.read` does. `/proc/sys/net` follows the thread. In what
  `run`, `start`, `call` and `fork` start both show the namespace.
- A forked function has a copy of every descriptor of the test process: sockets opened before stay
  open in it after the test closed them. Fork first, then connect.
- What `start` and `fork` start is killed when the thread that did so ends, hence also with a test
  that is killed (its own children are not, in that case): use the test's own thread.
- Everything that waits has a deadline: `eventually`, and the `timeout` of `run` and `call`.

Needs root, nft, ip and ss, setpriv, and for the destruction of orphans a kernel with
CONFIG_INET_DIAG_DESTROY.
"""

from lab.namespace import Namespace
from lab.processes import LabError, eventually
from lab.recipes import RECIPES
from lab.stage import Recipe, Stage, retransmissions, tcp_state, vanish

__all__ = [
    "RECIPES",
    "LabError",
    "Namespace",
    "Recipe",
    "Stage",
    "eventually",
    "retransmissions",
    "tcp_state",
    "vanish",
]
