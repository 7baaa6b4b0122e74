from collections.abc import Iterator

import pytest
from guards import need_command, need_kernel_diag, need_namespaces
from lab import Namespace


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
