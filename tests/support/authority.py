"""Certificates for tests, made by openssl and gone with their folder."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

from guards import need_command

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Issued(NamedTuple):
    """A certificate and its key, in PEM."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority whose certificates are valid for a day."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._openssl = need_command("openssl", "openssl")
        self._folder = folder
        self.cert, self._key = folder / f"{name}.crt", folder / f"{name}.key"
        use = ("-addext", "keyUsage=critical,keyCertSign")  # Python 3.13 asks for it
        self._run("req", "-x509", *_KEY, *self._about(name, self.cert, self._key), *use)

    def issue(self, name: str, *alternative_names: str) -> Issued:
        """A certificate for names such as "DNS:localhost"; the last of that name stays."""
        cert, key = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        names = ",".join(alternative_names or ("DNS:localhost", "IP:127.0.0.1"))
        signer = ("-CA", str(self.cert), "-CAkey", str(self._key))
        san = ("-addext", f"subjectAltName={names}", "-addext", "basicConstraints=CA:FALSE")
        self._run("req", "-x509", *_KEY, *self._about(name, cert, key), *signer, *san)
        return Issued(cert, key)

    def client(self, issued: Issued | None = None) -> ssl.SSLContext:
        """What a client trusts, and shows."""
        context = ssl.create_default_context(cafile=str(self.cert))
        if issued is not None:
            context.load_cert_chain(*issued)
        return context

    def _about(self, name: str, cert: Path, key: Path) -> tuple[str, ...]:
        return ("-days", "1", "-subj", f"/CN={name}", "-out", str(cert), "-keyout", str(key))

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(
            [self._openssl, *arguments], capture_output=True, text=True, check=False, timeout=30
        )
        assert done.returncode == 0, done.stderr
