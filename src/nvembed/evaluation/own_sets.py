"""A user's own evaluation sets: BEIR's three files, or pairs. Each becomes a retrieval task like any other.

BEIR: `corpus.jsonl` (`_id`, `text`, perhaps `title`), `queries.jsonl` (`_id`, `text`) and `qrels.tsv` or
`qrels/test.tsv` (query id, corpus id, score; a line of names above them may be missing). Pairs: the positives of all
rows are the corpus, and equal queries are one query with several relevant passages.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.digests import digest_json
from nvembed.core.errors import UserError
from nvembed.data.files import Unusable, texts_of
from nvembed.data.locations import open_file, source_digest
from nvembed.data.rows import read_rows
from nvembed.data.store import document_id, query_id
from nvembed.evaluation.sets import METRICS, EvalSet

if TYPE_CHECKING:
    from nvembed.recipe import OwnSet

SPLIT = "test"
QRELS = ("qrels.tsv", "qrels/test.tsv")


def read_own(sets: Mapping[str, OwnSet]) -> list[EvalSet]:
    """The sets of a section by name.

    Raises:
        UserError: a missing or empty file, a row without an id or text, ids given twice, judgements that name unknown
            ids or leave no query with a relevant passage, a set changed since the recipe was resolved.
    """
    found = []
    for name, own in sets.items():
        if own.digest is not None and own_digest(name, own) != own.digest:
            raise UserError(f"evaluation.own.{name}.path: {own.path} changed since the run began; start a new run")
        with _told_as(name):
            parts = _read_pairs(own) if _is_file(own.path) else _read_beir(own.path)
        found.append(
            EvalSet(
                split=SPLIT,
                name=name,
                type="Retrieval",
                instruction=own.instruction,
                document_instruction=own.document_instruction,
                main_score=METRICS["Retrieval"],
                **parts,
            )
        )
    return found


def own_digest(name: str, own: OwnSet) -> str:
    """What names a set's content. Raises UserError if a file is not there."""
    with _told_as(name):
        files = [own.path] if _is_file(own.path) else _beir_files(own.path)
        return digest_json([source_digest(file) for file in files])


@contextlib.contextmanager
def _told_as(name: str) -> Iterator[None]:
    """Within this, the readers' complaints of `data.path` name the key that the path stands under."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("data.path", f"evaluation.own.{name}.path", 1)) from error


def _is_file(path: str) -> bool:
    return Path(path).suffix != "" and not Path(path).is_dir()


def _beir_files(folder: str) -> list[str]:
    if "://" not in folder and not Path(folder).is_dir():
        raise UserError(
            f"data.path: {folder}: there is no such folder; give one with corpus.jsonl, queries.jsonl and qrels.tsv, "
            "or a file of pairs"
        )
    root = folder.rstrip("/")
    qrels = next((name for name in QRELS if (Path(folder) / name).is_file()), QRELS[0])
    return [f"{root}/{name}" for name in ("corpus.jsonl", "queries.jsonl", qrels)]


def _read_beir(folder: str) -> dict[str, Any]:
    corpus_file, queries_file, qrels_file = _beir_files(folder)
    corpus, queries = _by_id(corpus_file), _by_id(queries_file)
    qrels: dict[str, dict[str, int]] = {}
    for line, query, document, score in _judgements(qrels_file):
        for kind, one, known, file in (
            ("query", query, queries, queries_file),
            ("document", document, corpus, corpus_file),
        ):
            if one not in known:
                raise UserError(
                    f"data.path: {qrels_file}: line {line} names the {kind} {one!r}, which {Path(file).name} does not "
                    "hold; mend one of the two"
                )
        if score > 0:
            qrels.setdefault(query, {})[document] = score
    if not qrels:
        raise UserError(f"data.path: {qrels_file}: no query has a relevant document (score above 0)")
    return {"corpus": corpus, "queries": {i: text for i, text in queries.items() if i in qrels}, "qrels": qrels}


def _by_id(file: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line, row in read_rows(file, {}, {"_id", "id", "title", "text"}):
        where = f"data.path: {file}: line {line}"
        if isinstance(row, str):
            raise UserError(f"{where}: {row}; mend the line")
        name = row.get("_id", row.get("id"))
        text, title = row.get("text"), row.get("title") or ""
        if not isinstance(name, str | int) or not isinstance(text, str) or not isinstance(title, str):
            raise UserError(f"{where}: needs _id and text; give both")
        text = f"{title} {text}".strip()
        if not text:
            raise UserError(f"{where}: {name!r} has no text; give some or leave the line out")
        if str(name) in found:
            raise UserError(f"{where}: the id {name!r} stands twice; ids must be unique")
        found[str(name)] = text
    if not found:
        raise UserError(f"data.path: {file}: is empty; an evaluation needs at least one row")
    return found


def _judgements(file: str) -> Iterator[tuple[int, str, str, int]]:
    with open_file(file) as stream:
        for number, raw in enumerate(stream, 1):
            fields = raw.decode("utf-8", "replace").strip("\r\n").split("\t")
            if len(fields) == 4:  # TREC's own form has a column between
                fields = [fields[0], *fields[2:]]
            try:
                query, document, score = fields
                judged = int(score)
            except ValueError:
                if number == 1 or not raw.strip():
                    continue  # names of the columns
                raise UserError(
                    f"data.path: {file}: line {number} is no judgement; give query id, corpus id and a whole number, "
                    "with tabs between"
                ) from None
            yield number, query, document, judged


def _read_pairs(own: OwnSet) -> dict[str, Any]:
    corpus: dict[str, str] = {}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for line, row in read_rows(own.path, {"query": own.query, "positive": own.positive}, set()):
        where = f"data.path: {own.path}: line {line}"
        if isinstance(row, str):
            raise UserError(f"{where}: {row}; mend the line")
        try:
            (query,) = texts_of(row.get(own.query), own.query)
            positives = texts_of(row.get(own.positive), own.positive)
        except (Unusable, ValueError) as error:
            raise UserError(f"{where}: {error}; an evaluation set must be whole: mend the row or drop it") from None
        queries[query_id(query)] = query
        for text in positives:
            corpus[document_id(text)] = text
            qrels.setdefault(query_id(query), {})[document_id(text)] = 1
    if not queries:
        raise UserError(f"data.path: {own.path}: holds no pairs; give a file with rows")
    return {"corpus": corpus, "queries": queries, "qrels": qrels}


def set_digest(source: EvalSet) -> str:
    """What decides a set's score beside the model: names, sentences, texts and judgements."""
    from nvembed.encoding.encode import texts_digest

    columns = [source.corpus, source.queries, source.instructions]
    return digest_json(
        {
            "head": [source.split, source.name, source.type, source.main_score],
            "told": [source.instruction, source.document_instruction],
            "texts": [texts_digest(text for row in column.items() for text in row) for column in columns],
            "labelled": [[texts_digest(part[0]), part[1]] for part in (source.train, source.test)],
            "judged": texts_digest(json.dumps([query, rows], sort_keys=True) for query, rows in source.qrels.items()),
        }
    )
