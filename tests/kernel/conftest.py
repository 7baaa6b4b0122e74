import os
from collections.abc import Iterator

import pytest
from guards import need, need_command, need_kernel_diag, need_namespaces, need_root
from lab import Namespace
from own_cgroups import Cgroups, writable


@pytest.fixture(scope="session")
def laboratory() -> None:
    """What the kernel tests need from the machine."""
    need_namespaces()
    need_kernel_diag()
    need_command("nft", "nftables")
    for name in ("ip", "ss"):
        need_command(name, "iproute2")
    need_command("setpriv", "util-linux")


@pytest.fixture
def namespace(laboratory: None) -> Iterator[Namespace]:
    """A network namespace of the test's own."""
    with Namespace() as made:
        yield made


@pytest.fixture
def cgroups() -> Iterator[Cgroups]:
    """Control groups of the test's own."""
    need_root()
    need(writable(), "needs a writable mount of the cgroup2 file system")
    made = Cgroups()
    yield made
    made.remove()


@pytest.fixture
def slice_name() -> str:
    return f"sockwatch-test-{os.getpid()}.slice"
