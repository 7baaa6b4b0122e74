"""Files of certificates and keys: read whole, and given to OpenSSL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sockwatch.config.tomlfile import at_once

_LARGEST: Final = 1 << 20


def read(name: str) -> bytes:
    """The content of a file; nothing, and at once, of a pipe that nobody writes to.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    with open(name, "rb", opener=at_once) as file:
        return file.read(_LARGEST)


@contextmanager
def at_path(content: bytes) -> Iterator[str]:
    """A path under which OpenSSL, which takes nothing else, finds this; never on a disk."""
    with open(os.memfd_create("pem"), "wb") as file:  # noqa: PTH123
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"
