"""How a text becomes the words that BM25 counts, and BM25's constants: one setting for baseline and mining teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nvembed.core.errors import UserError

if TYPE_CHECKING:
    from bm25s.tokenization import Tokenized

K1, B = 1.5, 0.75  # the usual ones: how soon a repeated word saturates, how much a text's length counts
STOP_WORDS = "en"
STEMS = "english"


def stemmed_words(texts: Sequence[str]) -> Tokenized:
    """Lower-cased words of two letters or more without English stop words, as Snowball stems.

    Returns:
        `ids`, the stems of each text as numbers in their order, and `vocab`, stem → number.

    Raises:
        UserError: bm25s or PyStemmer is not installed.
    """
    try:
        import bm25s
        import Stemmer
    except ImportError as error:
        raise UserError(f"BM25: package {error.name} is not installed; pip install 'nvembed[eval]'") from error
    return bm25s.tokenize(list(texts), stopwords=STOP_WORDS, stemmer=Stemmer.Stemmer(STEMS), show_progress=False)
