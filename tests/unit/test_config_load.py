"""Defaults, file, environment and flags become one configuration whose values know their origin."""

import argparse
import os
from pathlib import Path

import pytest

from sockwatch.config import (
    KEYS,
    SECTIONS,
    Address,
    Config,
    ConfigError,
    Loaded,
    WatchConfig,
    load,
    to_toml,
    value_of,
)
from sockwatch.config.layers import SERVICE_LINK
from sockwatch.config.problems import literal

# One other valid value for each key: as TOML, as text, and as the program sees it.
OTHER = {
    "watch.interval": ("500ms", "500ms", 0.5),
    "census.interval": ("1m30s", "1m30s", 90.0),
    "cpu.budget": (0.5, "0.5", 0.5),
    "source.prefer": ("psutil", "psutil", "psutil"),
    "source.recheck": ("5s", "5s", 5.0),
    "ages.close_wait": ("10d", "10d", 864000.0),
    "ages.fin_wait2": ("1s", "1s", 1.0),
    "ages.syn_sent": ("2s", "2s", 2.0),
    "ages.syn_recv": ("3s", "3s", 3.0),
    "ages.fin_wait1": ("4s", "4s", 4.0),
    "ages.last_ack": ("5s", "5s", 5.0),
    "ages.closing": ("6s", "6s", 6.0),
    "ages.not_accepted": ("7s", "7s", 7.0),
    "labels.series_limit": (7, "7", 7),
    "tracking.limit": (1, "1", 1),
    "owners.processes": (True, "true", True),
    "netns.include": (["blue", "green"], "blue, green", ("blue", "green")),
    "web.listen_address": (
        [":80", "[::1]:0", "host-1.example:1"],
        ":80,[::1]:0,host-1.example:1",
        (Address("", 80), Address("::1", 0), Address("host-1.example", 1)),
    ),
    "web.telemetry_path": ("/sockets/m~1", "/sockets/m~1", "/sockets/m~1"),
    "web.config_file": ("web.yml", "web.yml", "web.yml"),
    "web.systemd_socket": (True, "true", True),
    "web.max_connections": (8, "8", 8),
    "log.level": ("debug", "debug", "debug"),
    "log.format": ("json", "json", "json"),
}


def value(loaded: Loaded, name: str) -> object:
    section, _, leaf = name.partition(".")
    return getattr(getattr(loaded.config, section), leaf)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sockwatch.toml"


def test_without_anything_given_the_defaults_apply(tmp_path: Path) -> None:
    loaded = load({}, {}, str(tmp_path / "absent.toml"))
    assert loaded.config == Config()
    assert loaded.config.config_file == ""
    assert {str(origin) for origin in loaded.origins.values()} == {"default"}
    assert list(loaded.origins) == list(KEYS)


def test_the_defaults_are_those_of_the_design() -> None:
    config = Config()
    assert (config.watch.interval, config.census.interval) == (1, 15)
    assert config.cpu.budget == 0.02
    assert (config.source.prefer, config.source.recheck) == ("netlink", 60)
    ages = {name: getattr(config.ages, name) for name in SECTIONS["ages"]}
    assert ages == {
        "close_wait": 60,
        "fin_wait2": 120,
        "syn_sent": 10,
        "syn_recv": 10,
        "fin_wait1": 30,
        "last_ack": 30,
        "closing": 30,
        "not_accepted": 10,
    }
    assert (config.labels.series_limit, config.tracking.limit) == (1000, 200_000)
    assert (config.owners.processes, config.netns.include) == (False, ())
    assert config.web.listen_address == (Address("127.0.0.1", 10077),)
    assert (config.web.telemetry_path, config.web.config_file) == ("/metrics", "")
    assert (config.web.systemd_socket, config.web.max_connections) == (False, 64)
    assert (config.log.level, config.log.format) == ("info", "logfmt")


def test_every_key_has_an_example_here() -> None:
    assert set(OTHER) == set(KEYS)


@pytest.mark.parametrize("name", KEYS)
def test_each_key_can_be_set_in_the_file(name: str, file: Path) -> None:
    section, _, leaf = name.partition(".")
    toml, _, expected = OTHER[name]
    file.write_text(f"\n[{section}]\n\n{leaf} = {literal(toml)}\n")
    loaded = load({"config.file": str(file)}, {})
    assert value(loaded, name) == expected
    assert str(loaded.origins[name]) == f"{file}:4"
    assert loaded.config.config_file == str(file)


@pytest.mark.parametrize("name", KEYS)
def test_each_key_can_be_set_by_its_variable(name: str) -> None:
    section, _, leaf = name.partition(".")
    variable = f"SOCKWATCH_{section.upper()}_{leaf.upper()}"
    _, text, expected = OTHER[name]
    loaded = load({}, {variable: text}, "")
    assert value(loaded, name) == expected
    assert str(loaded.origins[name]) == variable


@pytest.mark.parametrize("name", KEYS)
def test_each_key_can_be_set_by_its_flag(name: str) -> None:
    _, text, expected = OTHER[name]
    loaded = load({name: text}, {}, "")
    assert value(loaded, name) == expected
    assert str(loaded.origins[name]) == KEYS[name].flags[0]


def test_flags_win_over_variables_and_these_over_the_file(file: Path) -> None:
    file.write_text('[ages]\nclosing = "1s"\nlast_ack = "1s"\nsyn_sent = "1s"\n')
    environ = {"SOCKWATCH_AGES_LAST_ACK": "2s", "SOCKWATCH_AGES_SYN_SENT": "2s"}
    loaded = load({"ages.syn_sent": "3s"}, environ, str(file))
    ages = loaded.config.ages
    assert (ages.syn_recv, ages.closing, ages.last_ack, ages.syn_sent) == (10, 1, 2, 3)
    assert [str(loaded.origins[f"ages.{leaf}"]) for leaf in ("syn_recv", "closing")] == [
        "default",
        f"{file}:2",
    ]


def test_a_wrong_value_is_an_error_even_where_a_right_one_wins(file: Path) -> None:
    file.write_text('[ages]\nclosing = "no"\n')
    with pytest.raises(ConfigError, match=r"ages\.closing"):
        load({"ages.closing": "1s"}, {}, str(file))


def test_the_file_is_chosen_by_flag_then_variable_then_default(tmp_path: Path) -> None:
    for name in ("flag", "variable", "default"):
        (tmp_path / name).write_text("")
    flags = {"config.file": str(tmp_path / "flag")}
    environ = {"SOCKWATCH_CONFIG_FILE": str(tmp_path / "variable")}
    default = str(tmp_path / "default")
    files = [load(f, e, default).config.config_file for f in (flags, {}) for e in (environ, {})]
    assert [Path(name).name for name in files] == ["flag", "flag", "variable", "default"]


@pytest.mark.parametrize(
    ("flags", "environ"),
    [({"config.file": "/nonexistent"}, {}), ({}, {"SOCKWATCH_CONFIG_FILE": "/nonexistent"})],
    ids=["flag", "variable"],
)
def test_a_file_that_was_asked_for_must_exist(
    flags: dict[str, str], environ: dict[str, str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(flags, environ)
    assert str(caught.value) == "/nonexistent: there is no such file"


def test_a_default_file_that_may_not_be_read_is_not_passed_over(file: Path) -> None:
    file.write_text("")
    file.chmod(0)
    user = os.geteuid()
    os.seteuid(user or 65534)  # root may read everything
    try:
        with pytest.raises(ConfigError) as caught:
            load({}, {}, str(file))
    finally:
        os.seteuid(user)
    assert str(caught.value) == f"{file}: cannot be read: Permission denied"


def test_an_argparse_namespace_may_hold_other_things() -> None:
    namespace = argparse.Namespace(command="run", json=True, **{"watch.interval": "2s"})
    assert load(namespace, {}, "").config.watch == WatchConfig(interval=2)


def test_loading_again_sees_what_changed_and_an_error_changes_nothing(file: Path) -> None:
    """A reload is another call: the caller keeps the old configuration when it raises."""
    file.write_text('[ages]\nclosing = "1s"\n')
    first = load({}, {}, str(file))
    file.write_text('[ages]\nclosing = "2s"\n')
    second = load({}, {}, str(file))
    file.write_text("[ages]\nclosing = 3\n")
    with pytest.raises(ConfigError):
        load({}, {}, str(file))
    assert (first.config.ages.closing, second.config.ages.closing) == (1, 2)


def test_configurations_are_equal_by_their_values_not_their_files(file: Path) -> None:
    file.write_text("")
    assert load({}, {}, str(file)).config == load({}, {}, "").config


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SOCKWATCH_SERVICE_HOST", "10.0.0.1"),
        ("SOCKWATCH_SERVICE_PORT", "10077"),
        ("SOCKWATCH_SERVICE_PORT_METRICS", "10077"),
        ("SOCKWATCH_PORT", "tcp://10.0.0.1:10077"),
        ("SOCKWATCH_PORT_10077_TCP", "tcp://10.0.0.1:10077"),
        ("SOCKWATCH_PORT_10077_TCP_PROTO", "tcp"),
        ("SOCKWATCH_PORT_10077_TCP_ADDR", "10.0.0.1"),
        ("SOCKWATCH_CANARY_SERVICE_HOST", "10.0.0.1"),
        ("sockwatch_watch_interval", "x"),
        ("SOCKWATCHER", "x"),
    ],
)
def test_variables_of_others_are_not_ours(name: str, text: str) -> None:
    """Kubernetes sets those that look so in every pod beside a service named sockwatch."""
    assert load({}, {name: text}, "").config == Config()


def test_no_variable_of_ours_is_taken_for_one_of_kubernetes() -> None:
    assert not any(SERVICE_LINK.fullmatch(f"{key.variable}=x") for key in KEYS.values())


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("watch.interval", "1ms", 0.001),
        ("census.interval", "1d", 86400),
        ("census.interval", "1s", 1),
        ("ages.closing", "365d", 365 * 86400),
        ("cpu.budget", "0", 0),
        ("cpu.budget", "1", 1),
        ("labels.series_limit", "1000000", 1_000_000),
        ("netns.include", "n" * 255, ("n" * 255,)),
        ("web.listen_address", f"{'a' * 63}:65535", (Address("a" * 63, 65535),)),
    ],
    ids=lambda value: str(value)[:20],
)
def test_the_ends_of_a_range_belong_to_it(name: str, text: str, expected: object) -> None:
    assert value(load({name: text}, {}, ""), name) == expected


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_variable_is_an_empty_list(text: str) -> None:
    assert load({}, {"SOCKWATCH_NETNS_INCLUDE": text}, "").config.netns.include == ()


@pytest.mark.parametrize("path", ["/a", "/metrics/", "/apis", "/-", "/api-metrics", "/a/b.c"])
def test_a_free_path_may_be_chosen(path: str) -> None:
    assert load({"web.telemetry_path": path}, {}, "").config.web.telemetry_path == path


@pytest.mark.parametrize(
    "text", ["127.0.0.1:10077", ":0", "[::1]:65535", "[fe80::1%eth0]:1", "a_b.example:80"]
)
def test_an_address_is_shown_as_it_is_written(text: str) -> None:
    (address,) = load({"web.listen_address": [text]}, {}, "").config.web.listen_address
    assert str(address) == text


def test_what_is_shown_of_a_configuration_gives_it_again(file: Path) -> None:
    flags = {name: text for name, (_, text, _) in OTHER.items()}
    config = load(flags, {}, "").config
    lines = [
        line
        for section, values in to_toml(config).items()
        for line in (f"[{section}]", *(f"{k} = {literal(v)}" for k, v in values.items()))
    ]
    file.write_text("\n".join(lines))
    assert load({}, {}, str(file)).config == config
    assert all(value_of(config, KEYS[name]) == toml for name, (toml, _, _) in OTHER.items())
