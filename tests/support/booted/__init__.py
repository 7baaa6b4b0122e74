"""A Debian machine with a real systemd, booted for a `with` block and gone after it.

    with Machine(debian_tree(), {tmp_path: "/srv"}) as machine:
        machine.run("apt-get", "install", "--yes", "/srv/sockwatch.deb")
        machine.systemctl("is-active", "sockwatch")

Theory of operation. The tree is made once and cached; each machine writes to a layer in memory over
it. The machine is a container of systemd-nspawn with a network of its own, in which there is only
`lo`. It lives in a PID namespace that ends with the process that made it, so that nothing outlives
a test, not even one that is killed.
"""

from booted.machine import Machine
from booted.tree import debian_tree

__all__ = ["Machine", "debian_tree"]
