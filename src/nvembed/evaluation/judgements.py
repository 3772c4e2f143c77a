"""How often a test set has been used to judge. Each look makes the next verdict a little less sure.

A list in the state, one line a judgement: when, which model (its evaluation's digest), by which test sets. A model that
is judged again, against another rival or by a run repeated, is no new use.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from nvembed.core.errors import UserError
from nvembed.core.state import hold

FILE = "judgements.jsonl"


def count_judgement(folder: Path, challenger: str, test_sets: Iterable[str]) -> dict[str, int]:
    """Write down a judgement and say, of each test set, the how-manieth model this is that it judges.

    A model judged before keeps its number, so that a comparison repeated says the same.

    Args:
        folder: of the state. challenger: content digest of its evaluation. test_sets: their names.

    Raises:
        UserError: the list cannot be read or written.
    """
    names = sorted(set(test_sets))
    file = folder / FILE
    try:
        with hold(folder):
            lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
            judged = [json.loads(line) for line in lines if line.strip()]
            order: dict[str, list[str]] = {name: [] for name in names}
            for row in judged:
                for name in order.keys() & row["test_sets"]:
                    if row["challenger"] not in order[name]:
                        order[name].append(row["challenger"])
            if new := [name for name in names if challenger not in order[name]]:
                now = datetime.now(UTC).isoformat(timespec="seconds")
                row = {"at": now, "challenger": challenger, "test_sets": new}
                with file.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(row) + "\n")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: the list of judgements cannot be kept ({error!r}); mend or remove it") from error
    return {name: (own.index(challenger) if challenger in own else len(own)) + 1 for name, own in order.items()}
