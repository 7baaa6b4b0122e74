"""The shipped file shows every key with its default and says what it means."""

import re
from pathlib import Path

import pytest

from sockwatch.config import KEYS, SECTIONS, Config, load
from sockwatch.config.problems import literal

SHIPPED = Path(__file__).parents[2] / "systemd/sockwatch.toml"
KEY_LINE = re.compile(r"^#(\w+ = )", re.MULTILINE)


@pytest.fixture
def uncommented(tmp_path: Path) -> Path:
    path = tmp_path / "sockwatch.toml"
    path.write_text(KEY_LINE.sub(r"\1", SHIPPED.read_text()))
    return path


def test_as_shipped_it_changes_nothing_and_sets_nothing() -> None:
    loaded = load({"config.file": str(SHIPPED)}, {})
    assert loaded.config == Config()
    assert {str(origin) for origin in loaded.origins.values()} == {"default"}


def test_uncommented_it_sets_every_key_to_its_default(uncommented: Path) -> None:
    loaded = load({"config.file": str(uncommented)}, {})
    assert loaded.config == Config()
    assert {origin.name for origin in loaded.origins.values()} == {str(uncommented)}


def test_it_says_of_each_key_what_help_says() -> None:
    _, _, body = SHIPPED.read_text().partition("\n\n")
    sections = (
        f"[{section}]\n"
        + "".join(
            f"# {key.meaning}\n#{key.leaf} = {literal(key.default)}\n" for key in keys.values()
        )
        for section, keys in SECTIONS.items()
    )
    assert body == "\n".join(sections)


def test_its_lines_fit_a_terminal() -> None:
    assert max(map(len, SHIPPED.read_text().splitlines())) <= 100


def test_each_value_is_found_on_its_line(uncommented: Path) -> None:
    lines = uncommented.read_text().splitlines()
    for name, origin in load({"config.file": str(uncommented)}, {}).origins.items():
        assert origin.line is not None
        assert lines[origin.line - 1].startswith(f"{KEYS[name].leaf} = ")
