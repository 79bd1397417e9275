"""The documentation says what the code does: every key, option, problem word and exit code, and nothing else."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from helperd import config
from helperd.cli.commands import COMMANDS
from helperd.cli.parser import build
from helperd.config.whole import KEYS
from helperd.errors import PROBLEMS, Code
from helperd.extcap.shim import USAGE
from helperd.routing import SLOW
from helperd.table import LOST_IN_WORDS
from helperd.wire.definition import SourceDefinition
from helperd.wire.messages import CHANGES, LOSSES

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
MAN = ROOT / "man"
PAGES = [MAN / "helperd.8", MAN / "helpers.toml.5", MAN / "helperd-extcap.1"]
TEXTS = [*ROOT.glob("*.md"), *DOCS.glob("*.md")]


def options() -> set[str]:
    parser = build()
    sub = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    parsers = [parser, *sub.choices.values()]
    return {word for one in parsers for action in one._actions for word in action.option_strings}


@pytest.mark.parametrize("script", ["generate-docs", "generate-completions"])
def test_generated_files_are_what_the_code_says(script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stderr}run scripts/{script}"


def test_the_check_of_manual_pages_asks_no_scdoc(tmp_path: Path) -> None:
    """A page that was edited, and one whose source was, are found, whatever scdoc would make of them."""
    for name in ("man", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "helperd").symlink_to(ROOT / "helperd")
    script = Path(shutil.copytree(ROOT / "scripts", tmp_path / "scripts"), "generate-docs")
    (tmp_path / "bin").mkdir()

    def check(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, str(script), *words],
            env={"PATH": str(tmp_path / "bin")}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stderr

    assert check("--check") == (0, "")
    for name in ("helperd.8", "helperd-extcap.1.scd", "helpers.toml.5.scd"):
        file = tmp_path / "man" / name
        before = file.read_text()
        file.write_text(before + ("more\n" if name.endswith(".scd") else ".P\nmore\n"))
        page = name.removesuffix(".scd")
        assert check("--check") == (1, f"man/{page} is not what scripts/generate-docs writes\n")
        status, said = check()
        assert (status, said.endswith("apt install scdoc\n")) == (1, True), said
        file.write_text(before)
    scdoc = tmp_path / "bin" / "scdoc"
    scdoc.write_text("#!/bin/sh\necho .TH another scdoc\n")
    scdoc.chmod(0o755)
    assert check("--check") == (0, "")


def test_no_place_of_argparse_is_left_unfilled_in_a_generated_file() -> None:
    for path in (*MAN.iterdir(), *(ROOT / "completions").iterdir(), DOCS / "configuration.md"):
        assert "%(" not in path.read_text(), path.name


def test_every_problem_word_has_its_paragraph_and_no_other_has() -> None:
    text = (DOCS / "troubleshooting.md").read_text()
    words = re.findall(r"(?m)^### (\S+)$", text)
    assert len(words) == len(set(words))
    assert set(words) == set(PROBLEMS)
    for word, paragraph in re.findall(r"(?ms)^### (\S+)\n\n(.*?)(?=^#|\Z)", text):
        assert len(paragraph.strip()) > 30, word


def test_every_word_of_troubleshooting_names_a_test_and_none_twice() -> None:
    """That the tests are there, `test_every_test_that_the_texts_name_is_there` sees to."""
    text, _, table = (DOCS / "troubleshooting.md").read_text().partition("\n## What shows it\n")
    rows = re.findall(r"(?m)^\| `([a-z-]+)` \| (.+) \|$", table)
    words = re.findall(r"(?m)^### (\S+)$", text) + re.findall(r"(?m)^\| `([a-z-]+)` \|", text) + ["starved"]
    assert [word for word, _ in rows] == list(dict.fromkeys(words))
    for word, tests in rows:
        assert re.fullmatch(r"`test_\w+\.py::test_\w+`(, `test_\w+\.py::test_\w+`)*", tests), word


def test_every_reason_for_which_a_packet_is_lost_is_in_the_table_and_no_other() -> None:
    """Reasons are counted under a word in brackets or handed over as one; a sink of files counts under its problem."""
    code = "\n".join(path.read_text() for path in (ROOT / "helperd").rglob("*.py"))
    counted = re.findall(r'(?:upstream|lost|lost_by)\["([a-z-]+)"\] \+=', code)
    handed = re.findall(
        r'(?:count_lost\(\w+, |refuse\(runs, |_drop_queue\(|outbox\.clear\()"([a-z-]+)"', code
    )
    files = {"disk-full", "disk-error", "disk-stuck", "file-changed", "sink-failed", "not-installed"}
    table = (DOCS / "troubleshooting.md").read_text().partition("## Where packets get lost")[2]
    table = table.partition("\n## ")[0]
    shown = re.findall(r"(?m)^\| `([a-z-]+)` \|", table)
    assert set(shown) == {*counted, *handed, *LOSSES, *CHANGES, SLOW, *files}
    assert len(shown) == len(set(shown))
    assert set(LOST_IN_WORDS) == set(shown) - set(CHANGES)


def test_every_method_of_the_control_socket_is_documented_and_no_other() -> None:
    interface = (ROOT / "helperd" / "control" / "io.helperd.varlink").read_text()
    table = (DOCS / "control.md").read_text().partition("## Methods")[2].partition("\n## ")[0]
    shown = {
        name for row in re.findall(r"(?m)^\| (`[^|]+) \|", table) for name in re.findall(r"`(\w+)`", row)
    } - {"more", "upgrade"}
    assert shown == set(re.findall(r"(?m)^method (\w+)", interface))


def test_every_option_of_the_shim_is_in_its_manual() -> None:
    text = (MAN / "helperd-extcap.1.scd").read_text()
    for option in set(re.findall(r"--[a-z-]+", USAGE)):
        assert f"*{option}*" in text, option


def test_every_exit_code_is_in_the_manual() -> None:
    text = (MAN / "helperd.8.scd").read_text()
    section = text.partition("# EXIT STATUS")[2].partition("\n# ")[0]
    documented = {int(number) for number in re.findall(r"(?m)^\*(\d+)\*$", section)}
    assert documented == {int(code) for code in Code}


def test_every_command_and_option_is_in_the_manual() -> None:
    text = (MAN / "helperd.8.scd").read_text().replace("\\", "")
    for command in COMMANDS:
        assert f"*helperd {command.name}*" in text
    for option in options() - {"-h"}:
        assert re.search(rf"[* ]{option}\*", text), option


def test_every_key_is_in_the_reference_and_the_manual() -> None:
    reference = (DOCS / "configuration.md").read_text()
    manual = (MAN / "helpers.toml.5.scd").read_text().replace("\\", "")
    for key in KEYS:
        assert f"| `{key.name}` |" in reference
        assert f"*{key.name}* = " in manual


@pytest.mark.need("mandoc")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_manual_pages_satisfy_mandoc(page: Path) -> None:
    done = subprocess.run(["mandoc", "-T", "lint", str(page)], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (path.name, block)
        for path in TEXTS
        for block in re.findall(rf"(?ms)^```{language}\n(.*?)^```$", path.read_text())
    ]


@pytest.mark.parametrize(("name", "block"), blocks("toml"), ids=lambda value: value[:20])
def test_every_configuration_in_the_docs_is_good(name: str, block: str) -> None:
    if "[[helper]]" not in block and "[[source]]" in block:  # to be added to the shipped file
        block = (ROOT / "config" / "helpers.toml").read_text().partition("# --- sources")[0] + block
    elif "[[" not in block:  # a part of one
        block += "empty = true\n"
    settings = config.parse(block, name)
    for source in settings.sources:
        SourceDefinition.parse(source.definition)


def test_every_configuration_in_the_manual_is_good() -> None:
    found = re.findall(r"(?ms)^```\n(\[\[.*?)^```$", (MAN / "helpers.toml.5.scd").read_text())
    assert len(found) == 2
    for block in found:
        config.parse(block, "helpers.toml.5")


def test_every_command_shown_in_the_docs_is_understood() -> None:
    parser = build()
    shown = []
    for path in TEXTS:
        for block in re.findall(r"(?ms)^```\w*\n(.*?)^```$", path.read_text()):
            for line in block.split("\n"):
                found = re.match(r"(?:sudo |\.venv/bin/)?helperd ((?=[a-z])(?:[^#|&']|'[^']*')+)", line)
                if found:
                    shown.append((path.name, found[1]))
    shown += [
        (path.name, words)
        for path in TEXTS
        for words in re.findall(r"`helperd ([a-z][^`]*)`", path.read_text())
    ]
    assert shown
    names = {command.name for command in COMMANDS}
    for place, line in shown:
        words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", line)]
        if words[0] == "COMMAND":
            continue
        assert words[0] in names, f"{place}: helperd {line}"
        if len(words) > 1:
            parser.parse_args(words)


def test_links_between_the_texts_lead_somewhere() -> None:
    for path in TEXTS:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text()):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name} -> {target}"


def test_files_named_in_the_architecture_exist() -> None:
    text = (DOCS / "architecture.md").read_text()
    tree = text.partition("## Rooms")[2].partition("```")[2].partition("```")[0]
    names = set(re.findall(r"[a-z_0-9]+\.py\b", tree))
    existing = {path.name for path in (ROOT / "helperd").rglob("*.py")}
    assert names <= existing, names - existing
    top = {path.name for path in (ROOT / "helperd").glob("*.py")} - {"__init__.py"}
    assert top <= names, f"not in the picture: {sorted(top - names)}"
    folders = {path.name for path in (ROOT / "helperd").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders <= set(re.findall(r"(?m)^  ([a-z]+)/", tree)), "a room is missing in the picture"


def test_every_test_that_the_texts_name_is_there() -> None:
    tests: defaultdict[str, str] = defaultdict(str)  # two may have one name
    for path in (ROOT / "tests").rglob("test_*.py"):
        tests[path.name] += path.read_text()
    named = 0
    for page in sorted((ROOT / "docs").glob("*.md")):
        for file, name in re.findall(r"`(test_\w+\.py)::(test_\w+)`", page.read_text()):
            assert re.search(rf"^\s*(async )?def {name}\(", tests[file], re.MULTILINE), (
                page.name,
                file,
                name,
            )
            named += 1
    assert named >= 150
