"""The web configuration file as Prometheus' own tools understand it, and a Prometheus behind it.

Debian 12's promtool does not know `client_allowed_sans` yet; `tests/unit/test_web_tls.py` has it.
"""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import yaml
from authority import Authority
from daemon import start
from guards import need_command, need_kernel_diag
from lab.processes import eventually

from sockwatch.config import ConfigError
from sockwatch.web.certificates import tls_of
from sockwatch.web.config import load

pytestmark = pytest.mark.stack

HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
TLS = {"cert_file": "server.crt", "key_file": "server.key"}
CLIENTS = {**TLS, "client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "ca.crt"}
USERS = {"prometheus": HASH, "ops": HASH.replace("$2b$", "$2y$")}
SUITES = ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]
HEADERS = {"X-Frame-Options": "deny", "Strict-Transport-Security": "max-age=31536000"}


def theirs(file: Path) -> bool:
    promtool = need_command("promtool", "prometheus")
    done = subprocess.run(
        [promtool, "check", "web-config", file], capture_output=True, timeout=30, check=False
    )
    return done.returncode == 0


def ours(file: Path) -> bool:
    try:
        asked = load(str(file))
        if asked.tls:
            tls_of(asked.tls, str(file))
    except ConfigError:
        return False
    return True


def tls(**changed: object) -> dict[str, object]:
    return {"tls_server_config": {**CLIENTS, **changed}}


BOTH_TAKE: dict[str, dict[str, object]] = {
    "nothing": {},
    "passwords": {"basic_auth_users": USERS},
    "TLS": {"tls_server_config": TLS},
    "client certificates": tls(),
    "versions": tls(min_version="TLS12", max_version="TLS12"),
    "cipher suites": tls(cipher_suites=SUITES, prefer_server_cipher_suites=False),
    "a curve": tls(curve_preferences=["CurveP256"]),
    "headers": {"http_server_config": {"http2": False, "headers": HEADERS}},
}
BOTH_REFUSE: dict[str, dict[str, object]] = {
    "unknown section": {"tls": TLS},
    "unknown key": tls(cert_fil="server.crt"),
    "no key": {"tls_server_config": {"cert_file": "server.crt"}},
    "no such file": tls(cert_file="absent.crt"),
    "the key of another": tls(key_file="ca.key"),
    "unknown policy": tls(client_auth_type="Sometimes"),
    "an authority for nobody": tls(client_auth_type="NoClientCert"),
    "unknown version": tls(min_version="TLS14"),
    "unknown suite": tls(cipher_suites=["TLS_RSA_WITH_NOTHING"]),
    "unknown curve": tls(curve_preferences=["P-256"]),
    "no bcrypt": {"basic_auth_users": {"a": "secret"}},
    "another header": {"http_server_config": {"headers": {"Server": "x"}}},
    "bad header": {"http_server_config": {"headers": {"X-Frame-Options": "no"}}},
    "no number": {"http_server_config": {"http2": 2}},
}
ONLY_WE_REFUSE: dict[str, dict[str, object]] = {
    "a certificate nobody verifies": tls(client_auth_type="RequireAnyClientCert"),
    "certificates of every authority": {
        "tls_server_config": {**TLS, "client_auth_type": "RequireAndVerifyClientCert"}
    },
    "versions that are broken": tls(min_version="TLS10"),
    "versions upside down": tls(min_version="TLS13", max_version="TLS12"),
    "several curves": tls(curve_preferences=["CurveP256", "CurveP384"]),
}


def verdicts(folder: Path, content: Mapping[str, object]) -> tuple[bool, bool]:
    """Whether theirs and ours take it."""
    file = folder / "web.yml"
    file.write_text(yaml.safe_dump(content))
    return theirs(file), ours(file)


@pytest.mark.usefixtures("authority")
@pytest.mark.parametrize("name", BOTH_TAKE)
def test_what_promtool_takes_is_taken(folder: Path, name: str) -> None:
    assert verdicts(folder, BOTH_TAKE[name]) == (True, True)


@pytest.mark.usefixtures("authority")
@pytest.mark.parametrize("name", BOTH_REFUSE)
def test_what_promtool_refuses_is_refused(folder: Path, name: str) -> None:
    assert verdicts(folder, BOTH_REFUSE[name]) == (False, False)


@pytest.mark.usefixtures("authority")
@pytest.mark.parametrize("name", ONLY_WE_REFUSE)
def test_what_would_not_mean_here_what_it_says_is_refused_by_us_alone(
    folder: Path, name: str
) -> None:
    assert verdicts(folder, ONLY_WE_REFUSE[name]) == (True, False)


# A Prometheus


def job(folder: Path, name: str, password: str, shown: str | None) -> dict[str, Any]:
    certificate = {"cert_file": f"{shown}.crt", "key_file": f"{shown}.key"} if shown else {}
    return {
        "job_name": name,
        "scheme": "https",
        "basic_auth": {"username": "prometheus", "password": password},
        "tls_config": {
            "ca_file": str(folder / "ca.crt"),
            "server_name": "localhost",
            **certificate,
        },
    }


@pytest.fixture(scope="module")
def targets(authority: Authority, folder: Path) -> Iterator[dict[str, dict[str, Any]]]:
    """What a Prometheus says of its targets, by job, once it has tried all."""
    need_kernel_diag()
    program = need_command("prometheus", "prometheus")
    authority.issue("client", "DNS:prometheus.example")
    web = folder / "daemon.yml"
    web.write_text(yaml.safe_dump({"tls_server_config": CLIENTS, "basic_auth_users": USERS}))
    jobs = [
        job(folder, "known", "secret", "client"),
        job(folder, "wrong password", "Secret", "client"),
        job(folder, "no certificate", "secret", None),
    ]
    log = folder / "log"
    with ExitStack() as stack:
        daemon = stack.enter_context(start(f"--web.config.file={web}"))
        for each in jobs:
            each["static_configs"] = [{"targets": [f"127.0.0.1:{daemon.port}"]}]
        configuration = {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                "--web.listen-address=127.0.0.1:0",
            ],
            stderr=stack.enter_context(log.open("wb")),
        )
        stack.callback(process.wait, 20)
        stack.callback(process.terminate)
        address = eventually(lambda: listens_at(log), "Prometheus listens", 20)
        yield eventually(lambda: tried(address), "all targets tried", 30)


def listens_at(log: Path) -> str:
    found = re.search(r"Listening on\S* address=(127\S+)", log.read_text())
    return found[1] if found else ""


def tried(address: str) -> dict[str, dict[str, Any]]:
    """Targets by job; none before each was tried."""
    try:
        with urllib.request.urlopen(f"http://{address}/api/v1/targets", timeout=5) as answer:
            active = json.load(answer)["data"]["activeTargets"]
    except OSError:  # refused or 503: not yet
        return {}
    jobs = {each["labels"]["job"]: each for each in active}
    return jobs if active and all(each["health"] != "unknown" for each in active) else {}


def test_a_prometheus_with_password_and_certificate_scrapes(
    targets: dict[str, dict[str, Any]],
) -> None:
    assert (targets["known"]["health"], targets["known"]["lastError"]) == ("up", "")


def test_one_without_either_does_not(targets: dict[str, dict[str, Any]]) -> None:
    assert "401 Unauthorized" in targets["wrong password"]["lastError"]
    assert targets["no certificate"]["health"] == "down"
