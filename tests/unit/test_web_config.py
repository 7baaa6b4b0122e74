"""The web configuration file: what it may say, and what is said about what it may not."""

import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockwatch.config import ConfigError
from sockwatch.web.config import RateLimit, WebFile, load
from sockwatch.web.kinds import CIPHERS

HASH = "$2y$10$qRTBuFoULoYNA7AQ/F3ck.trZBPyjV64.oA4ZsSBCIWvXuvQlQTuu"
TLS = "tls_server_config:\n  cert_file: a.crt\n  key_file: a.key\n"
CLIENTS = TLS + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "web.yml"


def loaded(file: Path, text: str) -> WebFile:
    file.write_text(text)
    return load(str(file))


def problems(file: Path, text: str | bytes) -> list[str]:
    """What is wrong, without the name of the file."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    return [str(problem).removeprefix(str(file)) for problem in caught.value.problems]


@pytest.mark.parametrize("text", ["", "# nothing\n", "tls_server_config:\nbasic_auth_users:\n"])
def test_a_file_may_ask_for_nothing(file: Path, text: str) -> None:
    asked = loaded(file, text)
    assert (asked.tls, asked.rate_limit, asked.files) == (None, None, ())
    assert not asked.users
    assert not asked.headers


def test_paths_are_relative_to_the_file(file: Path) -> None:
    folder = file.parent
    asked = loaded(file, CLIENTS.replace("ca.crt", "/etc/ca.crt"))
    assert asked.files == (f"{folder}/a.crt", f"{folder}/a.key", "/etc/ca.crt")


def test_certificates_and_keys_may_stand_in_the_file(file: Path) -> None:
    tls = loaded(file, "tls_server_config:\n  cert: |\n    one\n  key: |\n    two\n").tls
    assert tls is not None
    assert (tls.cert.text, tls.key.text, tls.cert.file, tls.client_ca.file) == (
        "one\n",
        "two\n",
        "",
        "",
    )


def test_defaults_are_those_of_the_exporter_toolkit(file: Path) -> None:
    tls = loaded(file, TLS).tls
    assert tls is not None
    assert (tls.min_version, tls.max_version) == (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    assert tls.client_auth is ssl.CERT_NONE
    assert tls.prefer_server_ciphers
    assert (tls.ciphers, tls.curve, tls.client_allowed_sans) == ((), None, frozenset())


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("NoClientCert", ssl.CERT_NONE),
        ("VerifyClientCertIfGiven", ssl.CERT_OPTIONAL),
        ("RequireAndVerifyClientCert", ssl.CERT_REQUIRED),
    ],
)
def test_clients_may_be_asked_for_certificates(file: Path, name: str, mode: int) -> None:
    text = CLIENTS if mode else TLS + f"  client_auth_type: {name}\n"
    tls = loaded(file, text.replace("RequireAndVerifyClientCert", name)).tls
    assert tls is not None
    assert tls.client_auth == mode


def test_everything_at_once(file: Path) -> None:
    asked = loaded(
        file,
        CLIENTS
        + f"""
  client_allowed_sans: [prometheus.example, 192.0.2.7]
  min_version: TLS12
  max_version: TLS12
  cipher_suites:
    - TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
    - TLS_AES_128_GCM_SHA256
  prefer_server_cipher_suites: false
  curve_preferences: [CurveP384]
http_server_config:
  http2: true
  headers:
    X-Frame-Options: sameorigin
    X-XSS-Protection: 1
    Strict-Transport-Security: max-age=31536000; includeSubDomains
    Content-Security-Policy:
basic_auth_users:
  alice: {HASH}
  1: {HASH}
rate_limit:
  interval: 1m1.5s
  burst: 20
""",
    )
    tls = asked.tls
    assert tls is not None
    assert tls.client_allowed_sans == {"prometheus.example", "192.0.2.7"}
    assert (tls.ciphers, tls.curve) == (("ECDHE-RSA-AES256-GCM-SHA384",), "secp384r1")
    assert not tls.prefer_server_ciphers
    assert asked.http2
    assert dict(asked.headers) == {
        "X-Frame-Options": "sameorigin",
        "X-XSS-Protection": "1",
        "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
        "Content-Security-Policy": "",
    }
    assert dict(asked.users) == {"alice": HASH, "1": HASH}
    assert asked.rate_limit == RateLimit(61.5, 20)


def test_cipher_suites_of_tls_1_3_alone_leave_only_tls_1_3(file: Path) -> None:
    tls = loaded(file, TLS + "  cipher_suites: [TLS_AES_128_GCM_SHA256]\n").tls
    assert tls is not None
    assert tls.min_version is ssl.TLSVersion.TLSv1_3


@pytest.mark.parametrize("name", [go for go, openssl in CIPHERS.items() if openssl])
def test_openssl_knows_each_cipher_suite(name: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(CIPHERS[name])
    (chosen,) = [each for each in context.get_ciphers() if each["protocol"] != "TLSv1.3"]
    words = name.removeprefix("TLS_").replace("_WITH", "").split("_")
    assert chosen["name"].startswith("-".join(words[:2]))
    assert ("GCM" in words) == ("GCM" in chosen["name"])
    assert ("256" in words) == ("256-" in chosen["name"])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", None), ("1s", 1.0), ("500ms", 0.5), ("1.5s", 1.5), ("1h30m", 5400.0), ("20us", 2e-5)],
)
def test_intervals_are_written_as_go_writes_them(
    file: Path, text: str, seconds: float | None
) -> None:
    limit = loaded(file, f"rate_limit:\n  interval: {text}\n  burst: 1\n").rate_limit
    assert (limit and limit.interval) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tls_server_confg: {}", ":1: unknown key tls_server_confg; did you mean "),
        (TLS + "  cert_fil: x", ":4: unknown key tls_server_config.cert_fil; did you mean "),
        ("cert_file: x", ":1: unknown key cert_file; did you mean tls_server_config.cert_file?"),
        ("users: {}", ":1: unknown key users; possible: tls_server_config, http_server_config, "),
        (
            "http_server_config: {headers: {Content-Type: x}}",
            ":1: unknown key http_server_config.headers.Content-Type; did you mean ",
        ),
        ("just text", ": must be keys with values, written `key: value`"),
        ("[a, list]", ": must be keys with values"),
        ("basic_auth_users: [alice]", ":1: basic_auth_users: must be keys with values"),
        ("? [a]\n: b", ':1: unknown key "?"; possible: '),
        (TLS + "  key_file: b", ":4: tls_server_config.key_file: is given twice"),
        ("a: b: c", ":1: not valid YAML: mapping values are not allowed here"),
        ("a: [", ":1: not valid YAML: "),
        ("a: b\n---\nc: d", ":2: not valid YAML: but found another document"),
        ("[" * 20_000, ": not valid YAML: nested too deeply"),
        (b"a: \xff", ":1: is not UTF-8: byte 0xff"),
        ("a: \x01", ": not valid YAML: it has characters that YAML does not allow"),
        ("a" * 70_000, ": is larger than 65536 bytes: not a configuration file"),
        ("<<: {}", ':1: unknown key "<<"; possible: '),
        # TLS
        (
            "tls_server_config: {min_version: TLS13, key_file: k}",
            ":1: tls_server_config: one of cert_file and cert is missing",
        ),
        (
            "tls_server_config: {cert_file: '', key_file: k}",
            ":1: tls_server_config: one of cert_file and cert is missing",
        ),
        (
            "tls_server_config: {cert_file: c}",
            ":1: tls_server_config: one of key_file and key is missing",
        ),
        (TLS + "  cert: x", ":4: tls_server_config.cert: cert_file is given too; remove "),
        (TLS + "  cert_file: [x]", ":4: tls_server_config.cert_file: is given twice"),
        ("tls_server_config: {cert: [x]}", ":1: tls_server_config.cert: must be a text"),
        (
            TLS + "  client_auth_type: RequireAnyClientCert",
            (
                ':4: tls_server_config.client_auth_type = "RequireAnyClientCert": a certificate '
                "that nobody verifies says nothing; write RequireAndVerifyClientCert, with client_"
            ),
        ),
        (
            TLS + "  client_auth_type: RequestClientCert",
            ':4: tls_server_config.client_auth_type = "RequestClientCert": a certificate that ',
        ),
        (
            TLS + "  client_auth_type: VerifyClientCert",
            (
                ':4: tls_server_config.client_auth_type = "VerifyClientCert": did you mean '
                "VerifyClientCertIfGiven? must be NoClientCert, VerifyClientCertIfGiven or "
                "RequireAndVerifyClientCert"
            ),
        ),
        (
            TLS + "  client_auth_type: RequireAndVerifyClientCert",
            ":4: tls_server_config.client_auth_type: needs client_ca_file; without, any ",
        ),
        (TLS + "  client_ca_file: x", ":4: tls_server_config.client_ca_file: needs client_auth_"),
        (
            TLS + "  client_allowed_sans: [x]",
            ":4: tls_server_config.client_allowed_sans: needs client_auth_type: ",
        ),
        (CLIENTS + "  client_allowed_sans: []", ":6: tls_server_config.client_allowed_sans: must "),
        (CLIENTS + "  client_allowed_sans: x", ':6: tls_server_config.client_allowed_sans = "x": '),
        (
            TLS + "  min_version: TLS10",
            ':4: tls_server_config.min_version = "TLS10": is broken, and not offered here; ',
        ),
        (TLS + "  min_version: 1.2", ':4: tls_server_config.min_version = "1.2": must be TLS12 or'),
        (
            TLS + "  min_version: TLS13\n  max_version: TLS12",
            ":1: tls_server_config: min_version is above max_version",
        ),
        (
            TLS + "  cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]",
            ':4: tls_server_config.cipher_suites: "TLS_RSA_WITH_RC4_128_SHA": did you mean ',
        ),
        (
            TLS + "  max_version: TLS12\n  cipher_suites: [TLS_AES_128_GCM_SHA256]",
            ":5: tls_server_config.cipher_suites: none of them is for max_version: TLS12",
        ),
        (
            TLS + "  curve_preferences: [CurveP256, CurveP384]",
            ":4: tls_server_config.curve_preferences: only one curve can be chosen here; ",
        ),
        (
            TLS + "  curve_preferences: [X25519]",
            ':4: tls_server_config.curve_preferences: "X25519"',
        ),
        (
            TLS + "  prefer_server_cipher_suites: 1",
            ':4: tls_server_config.prefer_server_cipher_suites = "1": must be true or false',
        ),
        # the rest
        (
            "http_server_config: {headers: {X-Frame-Options: allow}}",
            ':1: http_server_config.headers.X-Frame-Options = "allow": must be deny or sameorigin',
        ),
        (
            'http_server_config: {headers: {X-XSS-Protection: "1\\r\\nA: b"}}',
            ":1: http_server_config.headers.X-XSS-Protection = ",
        ),
        ("basic_auth_users: {a: b}", ":1: basic_auth_users.a: must be a bcrypt hash, such as "),
        (
            f"basic_auth_users: {{a: {HASH.replace('10', '31')}}}",
            ":1: basic_auth_users.a: its bcrypt cost must be from 4 to 18; 10 to 12 is usual",
        ),
        (f'basic_auth_users: {{"a:b": {HASH}}}', ':1: basic_auth_users."a:b": a user\'s name must'),
        ("rate_limit: {interval: 1}", ':1: rate_limit.interval = "1": must be a duration with '),
        ("rate_limit: {interval: 9999h}", ':1: rate_limit.interval = "9999h": must not be longer'),
        ("rate_limit: {interval: 1s}", ":1: rate_limit: burst must be at least 1, or nothing is "),
        ("rate_limit: {burst: -1}", ':1: rate_limit.burst = "-1": must be a whole number from 0 '),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value[:60],
)
def test_what_is_wrong_is_named_with_its_line(file: Path, text: str, problem: str) -> None:
    (found,) = problems(file, text)
    assert found.startswith(problem)


def test_all_problems_are_told_at_once(file: Path) -> None:
    found = problems(file, TLS + "  a_b: 1\nrate_limit: {burst: x}\nbasic_auth_users: {a: b}\n")
    assert [line.split(":")[1] for line in found] == ["4", "5", "6"]


def test_a_file_that_is_absent_is_a_problem(file: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        load(str(file))


SECRET = "hunter2-hunter2"  # noqa: S105  nobody's


@pytest.mark.parametrize(
    "text",
    [
        f"basic_auth_users: {{a: {SECRET}}}",
        f"basic_auth_users: {{a: [{SECRET}]}}",
        f"tls_server_config: {{key: {SECRET}, key: {SECRET}}}",
        f"tls_server_config: {{cert_file: c, key_file: k, key: {SECRET}}}",
        f"tls_server_config: {{key: [{SECRET}]}}",
        f"basic_auth_users:\n  a: {SECRET}: b",
        f"basic_auth_users:\n  a: '{SECRET}",
        SECRET,
    ],
)
def test_no_message_shows_a_secret(file: Path, text: str) -> None:
    assert SECRET not in "".join(problems(file, text))


@given(st.text() | st.text("{}[]:,&*!|>-?'\"# \nab<0"))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yml"
    file.write_text(text)
    found: tuple[object, ...] = ()
    try:
        load(str(file))
    except ConfigError as error:
        found = error.problems
    assert all("\n" not in str(problem) for problem in found)
