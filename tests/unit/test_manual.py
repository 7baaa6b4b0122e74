"""The manual pages and the completion say what the program takes, in a form their readers take."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from guards import need_command

from deploy.debian import manual
from sockwatch.config import KEYS
from sockwatch.config.problems import literal
from sockwatch.config.schema import Key

ROOT = Path(__file__).parents[2]
OPTIONS = {
    f"{name} {option}": (name, option)
    for name, command in manual.commands().items()
    for action in command._actions
    for option in action.option_strings
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The pages as man shows them, on one line each with single spaces."""
    man = need_command("man", "man-db")
    folder = tmp_path_factory.mktemp("manual")
    script = ROOT / "deploy/debian/manual.py"
    subprocess.run([sys.executable, script, folder], check=True, timeout=30)
    return {path.name: shown(man, path) for path in folder.iterdir()}


def shown(man: str, page: Path) -> str:
    command = [man, "--warnings", "--no-hyphenation", "--local-file", str(page)]
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "MANWIDTH": "200"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stderr == ""
    return " ".join(re.sub(r".\x08", "", done.stdout).split())


def test_there_is_a_page_for_the_program_and_one_for_its_configuration(
    pages: dict[str, str],
) -> None:
    assert pages.keys() == {"sockwatch.1", "sockwatch.toml.5"}


@pytest.mark.parametrize(("command", "option"), OPTIONS.values(), ids=OPTIONS)
def test_each_flag_stands_in_the_section_of_its_command(
    pages: dict[str, str], command: str, option: str
) -> None:
    _, _, section = pages["sockwatch.1"].partition(f" {command} sockwatch {command} ")
    section, _, _ = section.partition(" SIGNALS ")
    assert re.search(rf"{option}[ ,]", section)


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_each_key_stands_with_default_meaning_flag_and_variable(
    pages: dict[str, str], key: Key
) -> None:
    spellings = f"(flag {key.flags[0]}, variable {key.variable})"
    text = f"{key.leaf} = {literal(key.default)} {key.meaning} {spellings}"
    assert text in pages["sockwatch.toml.5"]


def test_text_that_roff_would_take_for_its_own_is_shown() -> None:
    assert manual.text(r".B 'a\b' -x") == r"\&.B \(aqa\eb\(aq \-x"


@pytest.fixture(scope="module")
def completion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "sockwatch"
    script = ROOT / "deploy/debian/completion.py"
    with path.open("w") as output:
        subprocess.run([sys.executable, script, "bash"], stdout=output, check=True, timeout=30)
    return path


def completed(completion: Path, line: str) -> set[str]:
    """What bash offers for the last word of a line."""
    bash = need_command("bash", "bash")
    words = line.split(" ")
    script = f"""
        source {shlex.quote(str(completion))}
        COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}
        [[ $(complete -p sockwatch) =~ -F\\ ([a-z_]+) ]]
        "${{BASH_REMATCH[1]}}" 2>/dev/null # compopt has no completion to work on
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        [bash, "--norc", "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    return set(done.stdout.split())


COMPLETIONS = {
    "sockwatch ": set(manual.commands()),
    "sockwatch run --watch": {"--watch.interval"},
    "sockwatch run --source.prefer ": {"netlink", "psutil"},
    "sockwatch run --log.level w": {"warn"},
    "sockwatch check-config /etc/passw": {"/etc/passwd"},
}


@pytest.mark.parametrize(("line", "words"), COMPLETIONS.items(), ids=COMPLETIONS)
def test_bash_completes(completion: Path, line: str, words: set[str]) -> None:
    assert completed(completion, line) >= words
