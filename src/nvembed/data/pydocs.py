"""Python's own documentation as data: the docstrings of the standard library, read where Python lies.

The first paragraph of a docstring is a query, the rest its passage, the top-level module its label. Files are parsed,
never imported. The same Python gives the same pairs in the same order on every machine.
"""

from __future__ import annotations

import ast
import functools
import logging
import re
import sysconfig
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nvembed.core.digests import digest_json
from nvembed.core.errors import UserError
from nvembed.core.progress import track
from nvembed.data.example import Pair
from nvembed.data.parsed import content_key, keep_parsed, load_parsed

logger = logging.getLogger(__name__)

LICENSE = "PSF-2.0"
SOURCE = "python_docs"
QUERY_WORDS = (3, 60)
PASSAGE_WORDS = (6, 400)
MIN_PROSE = 0.75  # share of letters and spaces; tables, grammars and reprs lie below
_EXCLUDED = {
    *("test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "pydoc_data", "_bundled"),
    *("site-packages", "dist-packages", "lib-dynload", "__pycache__"),
}
_EXCLUDED_FILES = re.compile(
    r"^(_sysconfigdata.*|sitecustomize|usercustomize|antigravity|this|__hello__|__phello__.*)$"
)
_SIGNATURE = re.compile(r"^[\w.]+\(.*\)(\s*(->|=>|:|--|=).*)?$")
_PARAGRAPHS = re.compile(r"\n[ \t]*\n")


@dataclass(frozen=True)
class PythonDocs:
    """The pairs of one Python, what was dropped by which rule, and the digest of the pairs."""

    pairs: tuple[Pair, ...]
    dropped: dict[str, int]
    digest: str


@functools.lru_cache(maxsize=2)
def read_python_docs(folder: Path | None = None) -> PythonDocs:
    """Pairs from the standard library's source.

    Args:
        folder: where the library lies; None: where the running Python says.

    Raises:
        UserError: there is no source there (an embedded Python ships its library as byte code).
    """
    root = folder or Path(sysconfig.get_path("stdlib"))
    files = _source_files(root)
    key = content_key(root, files)
    kept = load_parsed(key)
    if kept is None:
        kept = _parse(root, files)
        keep_parsed(key, kept)
    if not kept["rows"]:
        raise UserError(
            f"data.source python_docs: no library source in {root}; use a Python that ships it, or data.path"
        )
    pairs = tuple(Pair(query=query, positive=positive, label=label) for label, query, positive in kept["rows"])
    return PythonDocs(pairs, kept["dropped"], digest_json(kept["rows"]))


def _parse(root: Path, files: Sequence[Path]) -> dict[str, Any]:
    """`rows` (label, query, passage) and `dropped` (rule → how many), JSON values."""
    dropped: Counter[str] = Counter()
    labels: dict[tuple[str, str], str] = {}
    for file in track(files, "reading Python's documentation"):
        label = PurePosixPath(file.relative_to(root).as_posix()).parts[0].removesuffix(".py")
        for docstring in _docstrings(file):
            found = split_docstring(docstring)
            if isinstance(found, str):
                dropped[found] += 1
            elif found in labels:
                dropped["exact duplicate"] += 1
            else:
                labels[found] = label
    rows = [[label, query, passage] for (query, passage), label in labels.items()]
    return {"rows": rows, "dropped": dict(sorted(dropped.items()))}


def split_docstring(docstring: str) -> tuple[str, str] | str:
    """Query and passage of a docstring (already dedented), or the name of the rule that drops it."""
    paragraphs = [" ".join(text.split()) for text in _PARAGRAPHS.split(_without_doctests(docstring))]
    paragraphs = [text for text in paragraphs if text and not set(text) <= set("-=~*_#. ")]
    if paragraphs and _SIGNATURE.match(paragraphs[0]):
        paragraphs = paragraphs[1:]
    if len(paragraphs) < 2:
        return "one paragraph"
    query, passage = paragraphs[0], "\n".join(paragraphs[1:])
    for name, text, (least, most) in (("query", query, QUERY_WORDS), ("passage", passage, PASSAGE_WORDS)):
        words = len(text.split())
        if words < least:
            return f"{name} too short"
        if words > most:
            return f"{name} too long"
        if sum(character.isalpha() or character.isspace() for character in text) < MIN_PROSE * len(text):
            return f"{name} not prose"
    return query, passage


def _source_files(root: Path) -> list[Path]:
    kept = []
    for file in root.rglob("*.py"):
        parts = file.relative_to(root).parts
        allowed = not parts[0].startswith("config-") and not _EXCLUDED_FILES.match(parts[0].removesuffix(".py"))
        if allowed and _EXCLUDED.isdisjoint(parts):
            kept.append(file)
    return sorted(kept, key=lambda file: file.relative_to(root).as_posix())


def _docstrings(file: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules are none of the user's business
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError) as error:
        logger.debug("%s: skipped (%s)", file, error)
        return
    for node in _statements(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=True)
            if docstring:
                yield docstring.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate cannot be written


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """The module and its statements, breadth first. `ast.walk` visits expressions too and takes four times as long."""
    todo: deque[ast.AST] = deque([tree])
    while todo:
        node = todo.popleft()
        yield node
        todo.extend(
            c for c in ast.iter_child_nodes(node) if isinstance(c, ast.stmt | ast.excepthandler | ast.match_case)
        )


def _without_doctests(docstring: str) -> str:
    """Drop interactive sessions: from a `>>>` to the next blank line."""
    kept, inside = [], False
    for line in docstring.splitlines():
        stripped = line.strip()
        if stripped.startswith(">>>"):
            inside = True
        elif not stripped:
            inside = False
        if not inside:
            kept.append(line)
    return "\n".join(kept)
