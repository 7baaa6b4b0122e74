"""The exposition formats in which metrics are served."""

from enum import StrEnum


class Format(StrEnum):
    """An exposition format; the value is its Content-Type.

    Prometheus 3 fails a scrape whose Content-Type it does not know, so each is spelled in full.
    Metric and label names are plain ASCII, hence every escaping scheme leaves them as they are.
    """

    OPENMETRICS_1_0_0 = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    TEXT_1_0_0 = "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8"
    TEXT_0_0_4 = "text/plain; version=0.0.4; charset=utf-8"
