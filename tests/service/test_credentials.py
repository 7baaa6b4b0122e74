"""Keys and passwords of the service on a booted machine: root's files, handed over by systemd."""

from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest
from authority import Authority
from booted import Machine
from booted.machine import MachineError

pytestmark = [pytest.mark.service, pytest.mark.slow, pytest.mark.timeout(600)]

FOLDER = "/etc/sockwatch"
CREDENTIALS = "/run/credentials/sockwatch.service"
ADDRESS = "127.0.0.1:10077"
CONFIGURATION = f'[web]\nconfig_file = "{CREDENTIALS}/web.yml"\n'
WEB = """\
tls_server_config:
  cert_file: /etc/sockwatch/web.crt
  key_file: web.key
basic_auth_users:
  alice: {hashed}
"""
ASK = f"""
import base64, ssl, sys, urllib.request
request = urllib.request.Request("https://{ADDRESS}/metrics")
login = base64.b64encode(sys.argv[1].encode()).decode()
request.add_header("Authorization", f"Basic {{login}}")
trust = ssl.create_default_context(cafile="/root/ca.crt")
sys.stdout.write(urllib.request.urlopen(request, timeout=10, context=trust).read().decode())
"""


@pytest.fixture
def configured(machine: Machine) -> Iterator[Machine]:
    """The machine with what README.md says to configure, but for the secret files themselves."""
    machine.systemctl("stop", "sockwatch")
    machine.write(f"{FOLDER}/sockwatch.toml", CONFIGURATION)
    yield machine
    machine.systemctl("stop", "sockwatch")
    machine.systemctl("reset-failed", "sockwatch", check=False)
    machine.run("rm", "--force", *(f"{FOLDER}/web.{suffix}" for suffix in ("yml", "key", "crt")))


@pytest.fixture
def protected(configured: Machine, tmp_path: Path) -> Machine:
    """The machine with the secret files, which only root may read, and the service started."""
    authority = Authority(tmp_path)
    issued = authority.issue("machine")
    configured.write("/root/ca.crt", authority.cert.read_text())
    configured.write(f"{FOLDER}/web.crt", issued.cert.read_text())
    write_secret(configured, "web.key", issued.key.read_text())
    hashed = bcrypt.hashpw(b"wonderland", bcrypt.gensalt(4)).decode()
    write_secret(configured, "web.yml", WEB.format(hashed=hashed))
    configured.systemctl("start", "sockwatch")
    return configured


def write_secret(machine: Machine, name: str, text: str) -> None:
    machine.write(f"{FOLDER}/{name}", text)
    machine.run("chmod", "600", f"{FOLDER}/{name}")


def ask(machine: Machine, login: str) -> str:
    return machine.run("python3", "-c", ASK, login)


def test_the_daemon_serves_tls_to_those_who_know_the_password(protected: Machine) -> None:
    assert "sockwatch_build_info" in ask(protected, "alice:wonderland")
    with pytest.raises(MachineError, match="HTTP Error 401"):
        ask(protected, "alice:looking-glass")
    with pytest.raises(MachineError):
        protected.get(f"http://{ADDRESS}/metrics")


@pytest.mark.parametrize("name", ["web.yml", "web.key"])
def test_no_other_user_can_read_what_the_daemon_was_given(protected: Machine, name: str) -> None:
    with pytest.raises(MachineError, match="Permission denied"):
        protected.run("setpriv", "--reuid=65534", "--clear-groups", "cat", f"{CREDENTIALS}/{name}")


@pytest.mark.parametrize("name", ["web.yml", "web.key"])
def test_with_a_file_missing_it_does_not_start_and_says_so(protected: Machine, name: str) -> None:
    """An open port would be worse."""
    protected.systemctl("stop", "sockwatch")
    protected.run("rm", f"{FOLDER}/{name}")
    with pytest.raises(MachineError):
        protected.systemctl("start", "sockwatch")
    assert protected.show("sockwatch", "ExecMainStatus") in {"1", "2"}
    assert f"{CREDENTIALS}/{name}" in protected.journal("sockwatch", "--lines=20")
    assert "10077" not in protected.run("ss", "-ltnH")


def test_where_nobody_asks_for_protection_the_files_may_be_missing(configured: Machine) -> None:
    configured.write(f"{FOLDER}/sockwatch.toml", "")
    configured.systemctl("start", "sockwatch")
    assert configured.run("cat", f"{CREDENTIALS}/web.yml").startswith("missing-")
    assert "sockwatch_build_info" in configured.get(f"http://{ADDRESS}/metrics")
