"""Sources to examples: reading, splitting without leaks, example-based labels, eval sets, batches, report.

Importing this package is light: what needs pyarrow, pydantic or datasketch is imported on first use, so that training
can take `Example` and `BatchSampler` where only torch is installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvembed.data.batches import BatchSampler
    from nvembed.data.example import Example
    from nvembed.data.preparation import prepare
    from nvembed.data.source import BadRow, SourceCheck, check_source
    from nvembed.data.store import check_parts, read_corpus, read_examples, write_corpus, write_examples
    from nvembed.data.table import ExampleTable, open_examples, read_teacher_scores

_HOMES = {
    "BadRow": "source",
    "BatchSampler": "batches",
    "Example": "example",
    "ExampleTable": "table",
    "SourceCheck": "source",
    "check_parts": "store",
    "check_source": "source",
    "open_examples": "table",
    "prepare": "preparation",
    "read_corpus": "store",
    "read_examples": "store",
    "read_teacher_scores": "table",
    "write_corpus": "store",
    "write_examples": "store",
}

__all__ = [
    "BadRow",
    "BatchSampler",
    "Example",
    "ExampleTable",
    "SourceCheck",
    "check_parts",
    "check_source",
    "open_examples",
    "prepare",
    "read_corpus",
    "read_examples",
    "read_teacher_scores",
    "write_corpus",
    "write_examples",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
