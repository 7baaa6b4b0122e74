"""The configuration: defaults, then a TOML file, then SOCKWATCH_* variables, then flags.

Every key is declared once, in `schema`. `load` gives the whole configuration or raises ConfigError
with all that is wrong with it.
"""

from sockwatch.config.addresses import Address
from sockwatch.config.durations import format_duration, parse_duration
from sockwatch.config.flags import add_flags
from sockwatch.config.loading import DEFAULT_FILE, Loaded, load
from sockwatch.config.problems import ConfigError, Layer, Origin, Problem
from sockwatch.config.schema import (
    KEYS,
    SECTIONS,
    AgesConfig,
    CensusConfig,
    Config,
    CpuConfig,
    Key,
    LabelsConfig,
    LogConfig,
    NetnsConfig,
    OwnersConfig,
    SourceConfig,
    TrackingConfig,
    WatchConfig,
    WebConfig,
    to_toml,
    value_of,
)

__all__ = [
    "DEFAULT_FILE",
    "KEYS",
    "SECTIONS",
    "Address",
    "AgesConfig",
    "CensusConfig",
    "Config",
    "ConfigError",
    "CpuConfig",
    "Key",
    "LabelsConfig",
    "Layer",
    "Loaded",
    "LogConfig",
    "NetnsConfig",
    "Origin",
    "OwnersConfig",
    "Problem",
    "SourceConfig",
    "TrackingConfig",
    "WatchConfig",
    "WebConfig",
    "add_flags",
    "format_duration",
    "load",
    "parse_duration",
    "to_toml",
    "value_of",
]
