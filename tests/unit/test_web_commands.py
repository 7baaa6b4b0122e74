"""The commands that read a web configuration file, and what they say about a bad one."""

import json
import subprocess
import sys
from pathlib import Path

import bcrypt
import pytest
from authority import Authority

from sockwatch.__main__ import main

USERS = f"basic_auth_users: {{alice: {bcrypt.hashpw(b'secret', bcrypt.gensalt(4)).decode()}}}\n"
TLS = "tls_server_config: {cert_file: server.crt, key_file: server.key}\n"


@pytest.fixture
def web(tmp_path: Path) -> Path:
    return tmp_path / "web.yml"


@pytest.fixture
def file(tmp_path: Path, web: Path) -> Path:
    """A configuration that names it."""
    file = tmp_path / "sockwatch.toml"
    file.write_text(f'[web]\nconfig_file = "{web}"\n')
    return file


@pytest.mark.parametrize(
    ("text", "code", "problem"),
    [
        ("basic_auth_user: {}", 2, ":1: unknown key basic_auth_user; did you mean "),
        (None, 2, ": there is no such file"),
        ("missing-/etc/sockwatch/web.yml", 2, ": must be keys with values"),
        (TLS, 1, ": tls_server_config.cert_file = "),
    ],
)
def test_the_daemon_does_not_start_with_a_bad_one(
    web: Path, text: str | None, code: int, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        web.write_text(text)
    assert main(["run", f"--web.config.file={web}", "--web.listen-address=127.0.0.1:0"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"sockwatch run: {web}{problem}")
    assert err.count("\n") == 1


def test_check_config_checks_it_as_well(
    web: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    web.write_text(USERS)
    assert main(["check-config", str(file)]) == 0
    assert capsys.readouterr().out.startswith(f"{file}: configuration is valid\n")
    web.write_text(USERS + "rate_limit: {interval: 5}\n")
    assert main(["check-config", str(file)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f'{web}:2: rate_limit.interval = "5": must be a duration ')


def test_check_config_reads_the_certificates(
    web: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    web.write_text(TLS)
    assert main(["check-config", str(file)]) == 2
    assert "server.crt: cannot be read: No such file" in capsys.readouterr().err
    Authority(tmp_path).issue("server")
    assert main(["check-config", str(file)]) == 0


def test_problems_in_json_say_in_which_file(
    web: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    web.write_text("nonsense: 1\n")
    assert main(["check-config", "--json", str(file)]) == 2
    report = json.loads(capsys.readouterr().out)
    (problem,) = report["problems"]
    assert (report["valid"], problem["file"], problem["line"]) == (False, str(web), 1)


@pytest.mark.parametrize(("module", "library"), [("yaml", "PyYAML"), ("bcrypt", "bcrypt")])
def test_a_missing_library_is_named_with_what_to_install(
    web: Path, module: str, library: str
) -> None:
    web.write_text(USERS)
    program = (
        f"import sys; sys.modules['{module}'] = None; from sockwatch.__main__ import main; "
        f"sys.exit(main(['run', '--web.config.file={web}']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"sockwatch run: {web}: reading it takes {library}, which is missing; "
        "install sockwatch[web]\n"
    )


def test_without_the_file_its_libraries_are_not_imported() -> None:
    program = (
        "import sys, sockwatch.commands.run, sockwatch.commands.check_config, sockwatch.daemon; "
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert not {"yaml", "bcrypt"} & {*done.stdout.split()}
