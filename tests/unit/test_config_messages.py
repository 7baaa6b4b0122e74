"""Every mistake gets one line: where, which key, which value, what is allowed."""

from pathlib import Path

import pytest

from sockwatch.config import ConfigError, load

DURATION = 'must be a duration from 1ms to 1d, such as "500ms", "15s" or "1h30m"'
AGE = 'must be a duration from 1ms to 365d, such as "500ms", "15s" or "1h30m"'
ADDRESS = 'must be "host:port", ":port" or "[IPv6]:port" with a port from 0 (any free one) to 65535'
ADDRESSES = 'must be a list of addresses, such as ["127.0.0.1:10077"]'
TAKEN = "must not be or lie below what serves something else: /, /api, /-/healthy, /-/ready"
ABSOLUTE = 'must be a path that starts with "/", such as "/metrics"'
LEVELS = 'must be "debug", "info", "warn" or "error"'
INTERVALS = "did you mean watch.interval or census.interval?"
PLAIN = 'must be a plain path without query or escapes, such as "/metrics"'
SECTIONS = "watch, census, cpu, source, ages, labels, tracking, owners, netns, web, log"


def problems_in(path: Path, text: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load({"config.file": str(path)}, {})
    return [str(problem).removeprefix(str(path)) for problem in caught.value.problems]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sockwatch.toml"


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("watch.interval", '"0s"', DURATION),
        ("watch.interval", '"-1s"', DURATION),
        ("watch.interval", '"1.5s"', DURATION),
        ("watch.interval", '"5"', DURATION),
        ("watch.interval", '""', DURATION),
        ("watch.interval", '"2d"', DURATION),
        ("watch.interval", "5", DURATION),
        ("watch.interval", "true", DURATION),
        ("watch.interval", "nan", DURATION),
        ("watch.interval", '["1s"]', DURATION),
        ("watch.interval", "1979-05-27", DURATION),
        ("census.interval", '"soon"', DURATION),
        ("source.recheck", '"0ms"', DURATION),
        ("ages.close_wait", '"0s"', AGE),
        ("ages.not_accepted", '"366d"', AGE),
        ("cpu.budget", "1.5", "must be a number from 0 to 1"),
        ("cpu.budget", "-0.1", "must be a number from 0 to 1"),
        ("cpu.budget", "nan", "must be a number from 0 to 1"),
        ("cpu.budget", "inf", "must be a number from 0 to 1"),
        ("cpu.budget", "-inf", "must be a number from 0 to 1"),
        ("cpu.budget", "true", "must be a number from 0 to 1"),
        ("cpu.budget", '"2%"', "must be a number from 0 to 1"),
        ("source.prefer", '"ss"', 'must be "netlink" or "psutil"'),
        ("source.prefer", '"psutl"', 'must be "netlink" or "psutil"; did you mean "psutil"?'),
        ("source.prefer", '"Netlink"', 'must be "netlink" or "psutil"; did you mean "netlink"?'),
        ("source.prefer", "1", 'must be "netlink" or "psutil"'),
        ("labels.series_limit", "0", "must be a whole number from 1 to 1000000"),
        ("labels.series_limit", "10.0", "must be a whole number from 1 to 1000000"),
        ("labels.series_limit", "true", "must be a whole number from 1 to 1000000"),
        ("labels.series_limit", '"1000"', "must be a whole number from 1 to 1000000"),
        ("tracking.limit", "-1", "must be a whole number from 1 to 10000000"),
        ("web.max_connections", "10001", "must be a whole number from 1 to 10000"),
        ("owners.processes", "1", "must be true or false"),
        ("owners.processes", '"yes"', "must be true or false"),
        ("web.systemd_socket", "0", "must be true or false"),
        ("netns.include", '"all"', 'must be a list of names, or ["all"]'),
        ("netns.include", "[1]", 'must be a list of names, or ["all"]'),
        ("netns.include", '["all", "a"]', 'must be ["all"] alone, or names without "all"'),
        ("netns.include", '["a", "a"]', '"a" is listed twice'),
        ("netns.include", '["a/b"]', '"a/b" cannot be the name of a network namespace'),
        ("netns.include", '[".."]', '".." cannot be the name of a network namespace'),
        ("netns.include", '[""]', '"" cannot be the name of a network namespace'),
        ("web.listen_address", '":80"', ADDRESSES),
        ("web.listen_address", "[80]", ADDRESSES),
        ("web.listen_address", "[]", "must have at least one address"),
        ("web.listen_address", '[":80", ":80"]', '":80" is listed twice'),
        ("web.listen_address", '["localhost"]', f'"localhost" {ADDRESS}'),
        ("web.listen_address", '["localhost:"]', f'"localhost:" {ADDRESS}'),
        ("web.listen_address", '[":65536"]', f'":65536" {ADDRESS}'),
        ("web.listen_address", '[":-1"]', f'":-1" {ADDRESS}'),
        ("web.listen_address", '[":http"]', f'":http" {ADDRESS}'),
        ("web.listen_address", '["::1:80"]', f'"::1:80" {ADDRESS}'),
        ("web.listen_address", '["[::1]"]', f'"[::1]" {ADDRESS}'),
        ("web.listen_address", '["[]:80"]', f'"[]:80" {ADDRESS}'),
        ("web.listen_address", '["[::g]:80"]', f'"[::g]:80" {ADDRESS}'),
        ("web.listen_address", '["[1.2.3.4]:80"]', f'"[1.2.3.4]:80" {ADDRESS}'),
        ("web.listen_address", '["1.2.3:80"]', f'"1.2.3:80" {ADDRESS}'),
        ("web.listen_address", '["256.1.1.1:80"]', f'"256.1.1.1:80" {ADDRESS}'),
        ("web.listen_address", '["-a:80"]', f'"-a:80" {ADDRESS}'),
        ("web.listen_address", '["a b:80"]', f'"a b:80" {ADDRESS}'),
        ("web.listen_address", '["http://a:80"]', f'"http://a:80" {ADDRESS}'),
        ("web.telemetry_path", '""', ABSOLUTE),
        ("web.telemetry_path", '"metrics"', ABSOLUTE),
        ("web.telemetry_path", '"/"', TAKEN),
        ("web.telemetry_path", '"/api"', TAKEN),
        ("web.telemetry_path", '"/api/v1/snapshot"', TAKEN),
        ("web.telemetry_path", '"/-/healthy"', TAKEN),
        ("web.telemetry_path", '"/-/ready"', TAKEN),
        ("web.telemetry_path", '"/-/metrics"', TAKEN),
        ("web.telemetry_path", '"/a?b"', PLAIN),
        ("web.telemetry_path", '"/a b"', PLAIN),
        ("web.telemetry_path", '"/a%20b"', PLAIN),
        ("web.telemetry_path", '"//api"', PLAIN),
        ("web.telemetry_path", '"/x/../api"', PLAIN),
        ("web.config_file", "7", 'must be the path of a file, or "" for none'),
        ("log.level", '"warning"', f'{LEVELS}; did you mean "warn"?'),
        ("log.format", '"xml"', 'must be "logfmt" or "json"'),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_named_with_what_can(
    file: Path, key: str, value: str, rule: str
) -> None:
    section, _, leaf = key.partition(".")
    problems = problems_in(file, f"\n[{section}]\n{leaf} = {value}\n")
    assert problems == [f":3: {key} = {value}: {rule}"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[watch]\nintervall = 1", ":2: unknown key watch.intervall; did you mean watch.interval?"),
        ("[ages]\nclosed = 1", ":2: unknown key ages.closed; did you mean ages.close_wait?"),
        ("[watch]\nbudget = 1", ":2: unknown key watch.budget; did you mean cpu.budget?"),
        ("[web]\ninterval = 1", f":2: unknown key web.interval; {INTERVALS}"),
        ("[log]\nxyz = 1", ":2: unknown key log.xyz; possible: log.level, log.format"),
        ('[log]\n"x\\ny" = 1', r':2: unknown key log."x\ny"; possible: log.level, log.format'),
        ("[log.level]\na = 1", f":1: log.level = {{...}}: {LEVELS}"),
        ("[wach]", ":1: unknown section [wach]; did you mean [watch]?"),
        ("[Watch]", ":1: unknown section [Watch]; did you mean [watch]?"),
        ("[zzz]", f":1: unknown section [zzz]; possible: {SECTIONS}"),
        ("interval = 1", f":1: key interval outside of all sections; {INTERVALS}"),
        ("zzz = 1", ":1: key zzz outside of all sections; possible: "
         + ", ".join(f"[{name}]" for name in SECTIONS.split(", "))),
        ("watch = 1", ":1: watch = 1: must be a section, written [watch]"),
        ("[[watch]]", ":1: watch = [{...}]: must be a section, written [watch]"),
        ("watch = {interval = 1}", f":1: watch.interval = 1: {DURATION}"),
    ],
    ids=str,
)  # fmt: skip
def test_a_key_that_does_not_exist_is_named_with_the_one_that_was_meant(
    file: Path, text: str, problem: str
) -> None:
    assert problems_in(file, text) == [problem]


def test_a_number_too_long_to_be_written_in_decimal_is_cut(file: Path) -> None:
    (problem,) = problems_in(file, "[cpu]\nbudget = 0x" + "f" * 5000)
    assert problem == f":2: cpu.budget = 0x{'f' * 55}...: must be a number from 0 to 1"


def test_all_problems_of_all_places_are_told_at_once(file: Path) -> None:
    file.write_text(
        '[watch]\ninterval = 1\nspeed = 2\n[cpu]\nbudget = 3\n[netns]\ninclude = ["x"]\n'
    )
    environ = {"SOCKWATCH_LABELS_SERIES_LIMIT": "-4", "SOCKWATCH_CONFIG_FILE": str(file)}
    flags = {"owners.processes": "maybe", "web.listen_address": [":1", ":x"]}
    with pytest.raises(ConfigError) as caught:
        load(flags, environ)
    assert str(caught.value).splitlines() == [
        f"{file}:2: watch.interval = 1: {DURATION}",
        f"{file}:3: unknown key watch.speed; possible: watch.interval",
        f"{file}:5: cpu.budget = 3: must be a number from 0 to 1",
        "SOCKWATCH_LABELS_SERIES_LIMIT = -4: must be a whole number from 1 to 1000000",
        '--owners.processes = "maybe": must be true or false',
        f'--web.listen-address = [":1", ":x"]: ":x" {ADDRESS}',
    ]


def test_a_file_that_cannot_be_read_hides_no_other_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load({"config.file": str(tmp_path), "cpu.budget": "9"}, {})
    assert str(caught.value).splitlines() == [
        f"{tmp_path}: cannot be read: Is a directory",
        "--cpu.budget = 9: must be a number from 0 to 1",
    ]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("SOCKWATCH_WATCH_INTERVALL", "; did you mean SOCKWATCH_WATCH_INTERVAL?"),
        ("SOCKWATCH_AGES_CLOSEWAIT", "; did you mean SOCKWATCH_AGES_CLOSE_WAIT?"),
        ("SOCKWATCH_CONFIGFILE", "; did you mean SOCKWATCH_CONFIG_FILE?"),
        ("SOCKWATCH_watch_interval", "; did you mean SOCKWATCH_WATCH_INTERVAL?"),
        ("SOCKWATCH_QQQ", ""),
        ("SOCKWATCH_", ""),
    ],
)
def test_an_unknown_variable_of_ours_is_named(name: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, {name: "1"}, "")
    assert str(caught.value) == f"{name}: unknown environment variable{problem}"


@pytest.mark.parametrize(
    ("text", "environ", "flags", "problem"),
    [
        ('[watch]\ninterval = "5s"\n[census]\ninterval = "4s"', {}, {},
         '{file}:4: census.interval = "4s": must not be below watch.interval, "5s" ({file}:2)'),
        ('[census]\ninterval = "500ms"', {}, {},
         '{file}:2: census.interval = "500ms": must not be below watch.interval, "1s" (default)'),
        ("", {}, {"watch.interval": "30s"},
         '--watch.interval = "30s": must not be above census.interval, "15s" (default)'),
        ('[census]\ninterval = "5s"', {"SOCKWATCH_WATCH_INTERVAL": "10s"}, {},
         'SOCKWATCH_WATCH_INTERVAL = "10s": must not be above census.interval, "5s" ({file}:2)'),
        ("", {"SOCKWATCH_WATCH_INTERVAL": "10s"}, {"census.interval": "9s"},
         '--census.interval = "9s": must not be below watch.interval, "10s" ({variable})'),
    ],
    ids=["both-in-the-file", "default-watch", "default-census", "variable", "flag"],
)  # fmt: skip
def test_a_census_more_frequent_than_the_watch_pass_is_blamed_on_what_was_set_last(
    file: Path, text: str, environ: dict[str, str], flags: dict[str, str], problem: str
) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(flags | {"config.file": str(file)}, environ)
    assert str(caught.value) == problem.format(file=file, variable="SOCKWATCH_WATCH_INTERVAL")


def test_intervals_are_not_compared_while_one_of_them_may_be_misspelt(file: Path) -> None:
    problems = problems_in(file, '[watch]\ninterval = "30s"\n[census]\nintervall = "60s"')
    assert problems == [":4: unknown key census.intervall; did you mean census.interval?"]


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("netns.include", "n" * 256, "cannot be the name of a network namespace"),
        ("netns.include", "\N{SNOWMAN}" * 86, "cannot be the name of a network namespace"),
        ("web.listen_address", f"{'a' * 64}:80", ADDRESS),
        ("web.listen_address", f"{'a.' * 127}:80", ADDRESS),
        ("web.listen_address", f"{'a.' * 126}aa:80", ADDRESS),
    ],
    ids=["name", "name-in-bytes", "label", "trailing-dot", "host"],
)
def test_a_name_longer_than_a_system_takes_is_refused(name: str, text: str, rule: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({name: text}, {}, "")
    assert str(caught.value).endswith(f"... {rule}")


def test_a_path_that_no_system_takes_is_refused(file: Path) -> None:
    (problem,) = problems_in(file, '[web]\nconfig_file = "a\\u0000b"')
    rule = 'must be the path of a file, or "" for none'
    assert problem == rf':2: web.config_file = "a\u0000b": {rule}'


def test_variables_are_told_in_the_order_of_the_alphabet() -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, {"SOCKWATCH_Y": "", "SOCKWATCH_Z": "", "SOCKWATCH_X": ""}, "")
    assert [problem.origin.name[-1] for problem in caught.value.problems] == ["X", "Y", "Z"]


def test_control_characters_and_length_cannot_break_a_message() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"web.telemetry_path": "x\n\x1b[31m" + "y" * 99}, {}, "")
    shown = r'"x\n\u001b[31m' + "y" * 43 + "..."
    assert str(caught.value) == f"--web.telemetry-path = {shown}: {ABSOLUTE}"
