"""What the cluster guide quotes is what the code says, and the files, commands and keys that it names are there."""

from __future__ import annotations

import ast
import re

import pytest
from manifest_files import ROOT

from nvembed.cli.app import COMMANDS

GUIDE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
TROUBLE = GUIDE.split("## When it breaks")[1]
GAP = "…"


def messages() -> set[str]:
    """Every text of the package, with `…` in the place of what is filled in."""
    found = set()
    for file in (ROOT / "src" / "nvembed").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else GAP for part in node.values]
                found.add("".join(str(part) for part in parts))
    return found


SAID = messages()


def says(quoted: str) -> bool:
    """Whether one message has all parts of a quotation in their order."""
    wanted = ".*".join(re.escape(part.strip()) for part in quoted.split(GAP) if part.strip())
    return any(re.search(wanted, message, re.DOTALL) for message in SAID)


def quotations() -> list[str]:
    rows = [line for line in TROUBLE.splitlines() if line.startswith("| ")][2:]
    return [one for row in rows for one in re.findall(r"`([^`]+)`", row.split(" | ")[0]) if " " in one]


@pytest.mark.parametrize("quoted", quotations())
def test_a_message_in_the_table_of_troubles_is_one_of_the_codes(quoted):
    assert says(quoted)


def test_a_message_that_nobody_says_would_be_noticed():
    assert len(quotations()) > 15
    assert not says("volume claim … is …, and a TrainJob's nodes mount it")


def test_files_and_commands_that_the_guides_name_are_there():
    for name in ("cluster.md", "operate.md"):
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        for path in re.findall(r"(?<![\w/.])((?:manifests|scripts|docs|benchmarks)/[\w./-]*[\w/])", text):
            assert (ROOT / path).exists(), path
        for command in re.findall(r"(?:^|`|=\w+ )nvembed ([a-z]+)", text, re.MULTILINE):
            assert command in COMMANDS, command
