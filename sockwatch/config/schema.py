"""Every key of the configuration, once: its name, kind, default and meaning.

TOML, environment, flags, `check-config` and the shipped file all follow this table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from sockwatch.config import kinds
from sockwatch.config.addresses import Address
from sockwatch.config.kinds import Kind

T = TypeVar("T")

INTERVAL = kinds.duration("1ms", "1d")
AGE = kinds.duration("1ms", "365d")


def key(kind: Kind[T], default: object, meaning: str, *flags: str) -> T:
    """Declare a key of a section; `default` as TOML gives it, `flags` only where they differ."""
    about = {"kind": kind, "default": default, "meaning": meaning, "flags": flags}
    return field(default=kind.parse(default), metadata=about)


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """The pass over listeners, half-open and closing states; seconds."""

    interval: float = key(
        INTERVAL, "1s", "time between watch passes (listeners, half-open and closing states)"
    )


@dataclass(frozen=True, slots=True)
class CensusConfig:
    """The pass over every socket; seconds."""

    interval: float = key(
        INTERVAL, "15s", "time between census passes (every socket); not below watch.interval"
    )


@dataclass(frozen=True, slots=True)
class CpuConfig:
    """What the passes may cost."""

    budget: float = key(
        kinds.share(), 0.02, "share of one core the passes may use, averaged; 0 = no limit"
    )


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """Where the sockets are read from; seconds."""

    prefer: str = key(
        kinds.choice("netlink", "psutil"), "netlink", "what to read the sockets with, if it works"
    )
    recheck: float = key(INTERVAL, "60s", "time between checks whether the preferred source works")


@dataclass(frozen=True, slots=True)
class AgesConfig:
    """How long each state is normal, in seconds; beyond it a connection is stuck."""

    close_wait: float = key(
        AGE, "60s", "longest normal CLOSE_WAIT (the peer has closed, the local application not)"
    )
    fin_wait2: float = key(
        AGE, "120s", "longest normal FIN_WAIT2 that a process still holds (the peer has not closed)"
    )
    syn_sent: float = key(AGE, "10s", "longest normal SYN_SENT (the peer has not answered)")
    syn_recv: float = key(
        AGE, "10s", "longest normal SYN_RECV (the peer has not acknowledged our answer)"
    )
    fin_wait1: float = key(
        AGE, "30s", "longest normal FIN_WAIT1 (the peer has not acknowledged our FIN)"
    )
    last_ack: float = key(
        AGE, "30s", "longest normal LAST_ACK (the peer has not acknowledged our last FIN)"
    )
    closing: float = key(
        AGE, "30s", "longest normal CLOSING (both closed at once, the peer's ACK is missing)"
    )
    not_accepted: float = key(AGE, "10s", "longest normal wait for accept()")


@dataclass(frozen=True, slots=True)
class LabelsConfig:
    """How many series there may be."""

    series_limit: int = key(
        kinds.whole(1, 1_000_000), 1000, "most services told apart; the rest counts as other"
    )


@dataclass(frozen=True, slots=True)
class TrackingConfig:
    """How many connections are remembered from pass to pass."""

    limit: int = key(kinds.whole(1, 10_000_000), 200_000, "most connections whose age is followed")


@dataclass(frozen=True, slots=True)
class OwnersConfig:
    """Who holds a socket, beyond its systemd unit or container."""

    processes: bool = key(
        kinds.switch(),
        default=False,
        meaning="name the processes that hold stuck sockets and listeners",
    )


@dataclass(frozen=True, slots=True)
class NetnsConfig:
    """Network namespaces besides the host's own."""

    include: tuple[str, ...] = key(
        kinds.namespaces(),
        [],
        'further network namespaces to watch, by name; "all" = every one (without effect yet)',
        "--netns.include",
        "--netns",
    )


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The HTTP server."""

    listen_address: tuple[Address, ...] = key(
        kinds.addresses(), ["127.0.0.1:10077"], "where to listen; :port = on every address"
    )
    telemetry_path: str = key(kinds.url_path(), "/metrics", "path of the metrics")
    config_file: str = key(
        kinds.file_name(),
        "",
        "TLS and authentication, in the format of the Prometheus exporter toolkit",
        "--web.config.file",
    )
    systemd_socket: bool = key(
        kinds.switch(), default=False, meaning="use systemd's socket, not listen_address"
    )
    max_connections: int = key(
        kinds.whole(1, 10_000), 64, "most HTTP connections at a time; further ones are refused"
    )


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is logged and how."""

    level: str = key(
        kinds.choice("debug", "info", "warn", "error"), "info", "least severe messages to log"
    )
    format: str = key(kinds.choice("logfmt", "json"), "logfmt", "how messages are written")


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration; durations are seconds.

    `config_file` is the file that was read, "" if none; two configurations are equal if their
    values are, wherever they come from.
    """

    watch: WatchConfig = field(default_factory=WatchConfig)
    census: CensusConfig = field(default_factory=CensusConfig)
    cpu: CpuConfig = field(default_factory=CpuConfig)
    source: SourceConfig = field(default_factory=SourceConfig)
    ages: AgesConfig = field(default_factory=AgesConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    owners: OwnersConfig = field(default_factory=OwnersConfig)
    netns: NetnsConfig = field(default_factory=NetnsConfig)
    web: WebConfig = field(default_factory=WebConfig)
    log: LogConfig = field(default_factory=LogConfig)
    config_file: str = field(default="", compare=False)


class Key(NamedTuple):
    """One key in all its spellings; `default` as TOML gives it."""

    section: str
    leaf: str
    kind: Kind[Any]
    default: object
    meaning: str
    flags: tuple[str, ...]

    @property
    def name(self) -> str:
        """The dotted key, as in "watch.interval"."""
        return f"{self.section}.{self.leaf}"

    @property
    def variable(self) -> str:
        """The environment variable, as in "SOCKWATCH_WATCH_INTERVAL"."""
        return f"SOCKWATCH_{self.section}_{self.leaf}".upper()


def keys_of(section: str, values: object) -> Mapping[str, Key]:
    """List the keys of one section by their names within it."""
    keys = {}
    for part in fields(values):  # type: ignore[arg-type]
        about = dict(part.metadata)
        usual = f"--{section}.{part.name.replace('_', '-')}"
        about["flags"] = about["flags"] or (usual,)
        keys[part.name] = Key(section, part.name, **about)
    return MappingProxyType(keys)


SECTIONS: Mapping[str, Mapping[str, Key]] = MappingProxyType(
    {
        part.name: keys_of(part.name, getattr(Config(), part.name))
        for part in fields(Config)
        if part.name != "config_file"
    }
)
KEYS: Mapping[str, Key] = MappingProxyType(
    {key.name: key for section in SECTIONS.values() for key in section.values()}
)


def value_of(config: Config, key: Key) -> object:
    """Return the value of `key` as TOML gives it."""
    return key.kind.to_toml(getattr(getattr(config, key.section), key.leaf))


def to_toml(config: Config) -> dict[str, dict[str, object]]:
    """Return every value by section, as a TOML file that says it all gives it."""
    return {
        section: {leaf: value_of(config, key) for leaf, key in keys.items()}
        for section, keys in SECTIONS.items()
    }
