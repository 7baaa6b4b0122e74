"""Content negotiation: q-values decide, the most specific range counts, nonsense is ignored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockwatch.export.formats import Format
from sockwatch.web.negotiate import choose_format, prefers_gzip

OM = Format.OPENMETRICS_1_0_0
TEXT1 = Format.TEXT_1_0_0
TEXT0 = Format.TEXT_0_0_4

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3_PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;"
    "q=0.6,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,*/*;q=0.2"
)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", TEXT0),
        ("*/*", TEXT0),
        (BROWSER, TEXT0),
        (PROMETHEUS_2, OM),
        (PROMETHEUS_3, OM),
        (PROMETHEUS_3_PROTOBUF, TEXT1),
        ("application/openmetrics-text", OM),
        ("application/openmetrics-text; version=0.0.1", OM),
        ('APPLICATION/OpenMetrics-Text ; Version="1.0.0" ; Q=1.000', OM),
        ("application/*", OM),
        ("text/plain", TEXT0),
        ("text/*", TEXT0),
        ("text/plain; version=1.0.0", TEXT1),
        ("text/plain; version=0.0.4", TEXT0),
        ("text/plain;version=1.0.0, text/plain;version=0.0.4", TEXT1),
    ],
)
def test_a_client_gets_what_it_asks_for(accept: str, chosen: Format) -> None:
    assert choose_format(accept) is chosen


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("application/openmetrics-text;q=0.1, text/plain;q=0.2", TEXT0),
        ("text/plain;version=1.0.0;q=0.2, text/plain;version=0.0.4;q=0.9", TEXT0),
        ("application/openmetrics-text;q=0, */*", TEXT0),
        ("text/plain;q=0, */*;q=0.1", OM),
        ("text/plain;version=0.0.4;q=0, */*;q=0.1", TEXT1),
        ("*/*;q=1, application/openmetrics-text;q=0.5", TEXT0),
        ("*/*;q=0.5, application/openmetrics-text;q=0.5", OM),
        ("text/*;q=0.9, text/plain;version=0.0.4;q=0.1, application/*;q=0.5", TEXT1),
        ("application/openmetrics-text;version=1.0.0;q=0, text/plain;q=0.001", TEXT0),
    ],
)
def test_the_most_specific_range_gives_the_quality(accept: str, chosen: Format) -> None:
    assert choose_format(accept) is chosen


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=9.9.9",
        "application/openmetrics-text; version=2.0.0",
        "application/openmetrics-text; version=abc",
        "application/openmetrics-text; version=",
        "text/plain; version=0.0.5",
        "text/html",
        "*/*;q=0",
        "text/plain;q=0, application/openmetrics-text;q=0.0",
    ],
)
def test_who_accepts_nothing_that_is_offered_gets_text(accept: str) -> None:
    assert choose_format(accept) is TEXT0


@pytest.mark.parametrize(
    "accept",
    [
        "text/plain;q=2, application/openmetrics-text;q=0.1",
        "text/plain;q=-1, application/openmetrics-text;q=0.1",
        "text/plain;q=nan, application/openmetrics-text;q=0.1",
        "text/plain;q=, application/openmetrics-text;q=0.1",
        "/, text, */plain, ;;, ,, application/openmetrics-text;q=0.1",
        'text/plain;version="0.0.4, application/openmetrics-text", application/openmetrics-text',
    ],
)
def test_a_malformed_part_spoils_only_itself(accept: str) -> None:
    assert choose_format(accept) is OM


@pytest.mark.parametrize(
    ("accept_encoding", "compressed"),
    [
        ("", False),
        ("gzip", True),
        ("GZip", True),
        ("x-gzip", True),
        ("gzip, deflate, br, zstd", True),
        ("gzip;q=0.001", True),
        ("*", True),
        ("deflate, *;q=0.5", True),
        ("identity;q=0", False),
        ("identity;q=0, gzip;q=0.1", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000", False),
        ("gzip;q=0, *", False),
        ("*;q=0", False),
        ("identity", False),
        ("gzip;q=0.5, identity;q=0.9", False),
        ("gzip;q=high", False),
        ("gz ip", False),
    ],
)
def test_gzip_only_for_those_who_like_it(accept_encoding: str, compressed: bool) -> None:
    assert prefers_gzip(accept_encoding) is compressed


HEADERISH = st.text() | st.lists(
    st.sampled_from(["text/plain", "*/*", ";", ",", "q=", "0.5", "=", '"', "\\", " ", "version="])
).map("".join)


@given(HEADERISH)
def test_any_header_gets_an_answer(header: str) -> None:
    assert choose_format(header) in Format
    assert prefers_gzip(header) in {True, False}
