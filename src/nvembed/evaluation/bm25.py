"""BM25, the lexical baseline, as a search model of mteb's: English stop words, Snowball stems, Lucene's BM25."""

from __future__ import annotations

from typing import Any

from mteb.models.model_meta import ModelMeta

from nvembed.data.words import K1, B, stemmed_words


class BM25Model:
    """Search by words (mteb's `SearchProtocol`). `k1` and `b` are the usual 1.5 and 0.75."""

    def __init__(self, k1: float = K1, b: float = B) -> None:
        import bm25s

        self._bm25s = bm25s
        self._k1, self._b = k1, b
        self._meta = ModelMeta.create_empty({"name": "nvembed/bm25", "revision": "bm25s"})

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """Name and revision, as mteb wants them."""
        return self._meta

    def index(self, corpus: Any, **kwargs: Any) -> None:
        """Read a corpus with the columns `id`, `text` and perhaps `title`, which is read before the text."""
        self._ids = list(corpus["id"])
        texts = corpus["text"]
        if "title" in corpus.column_names:
            texts = [f"{title or ''} {text}".strip() for title, text in zip(corpus["title"], texts, strict=True)]
        self._index = self._bm25s.BM25(k1=self._k1, b=self._b, method="lucene")
        self._index.index(stemmed_words(texts), show_progress=False)

    def search(self, queries: Any, *, top_k: int, **kwargs: Any) -> dict[str, dict[str, float]]:
        """Query id to document id to score, at most `top_k` documents a query."""
        hits, scores = self._index.retrieve(
            stemmed_words(queries["text"]), k=min(top_k, len(self._ids)), show_progress=False
        )
        return {
            query: {self._ids[hit]: float(score) for hit, score in zip(hits[row], scores[row], strict=True)}
            for row, query in enumerate(queries["id"])
        }
