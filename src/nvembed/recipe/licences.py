"""Which licences a recipe refuses, what falls out by it and how much of the mix that is."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nvembed.recipe.sources import Source

_CLASSES = {
    # licence names write it as a word of its own: cc-by-nc-4.0, msr-la-nc
    "non-commercial": re.compile(r"(?<![a-z])nc(?![a-z])|non-?commercial|research[- ]only", re.IGNORECASE),
    "share-alike": re.compile(r"(?<![a-z])sa(?![a-z])|share-?alike", re.IGNORECASE),
    "unspecified": re.compile(r"^(unspecified\b.*|unknown|none|not specified.*|)$", re.IGNORECASE),
    "custom": re.compile(r"custom|https?://|own terms|mixed", re.IGNORECASE),
}
LICENCE_CLASSES = tuple(_CLASSES)


@dataclass(frozen=True)
class Refused:
    """A source that falls out: its licence, the pattern that refused it, its rows where they are known."""

    name: str
    license: str
    pattern: str
    rows: int | None


def refusing_pattern(license: str, patterns: Iterable[str]) -> str | None:
    """The first of the patterns that a licence fits: a class (`non-commercial`, …) or a name with `*`."""
    for pattern in patterns:
        known = _CLASSES.get(pattern.lower())
        fits = known.search(license.strip()) if known else fnmatch.fnmatch(license.lower(), pattern.lower())
        if fits:
            return pattern
    return None


def refused_sources(sources: Mapping[str, Source], patterns: Iterable[str]) -> list[Refused]:
    """The sources whose licence fits one of the patterns, by name."""
    patterns = list(patterns)
    found = []
    for name, source in sorted(sources.items()):
        pattern = refusing_pattern(source.license, patterns)
        if pattern is not None:
            found.append(Refused(name, source.license, pattern, source.expected))
    return found


def what_falls_out(sources: Mapping[str, Source], patterns: Iterable[str]) -> str:
    """One line that names what falls out and its share of the rows that are known; empty if nothing does."""
    refused = refused_sources(sources, patterns)
    if not refused:
        return ""
    total = sum(source.expected or 0 for source in sources.values())
    lost = sum(item.rows or 0 for item in refused)
    unknown = sum(source.expected is None for source in sources.values())
    named = ", ".join(f"{item.name} ({item.license})" for item in refused)
    share = f"{100 * lost / total:.1f} % of the {total:,} rows" if total else "an unknown share of the rows"
    beside = f"; {unknown} sources' rows are not known and not counted" if unknown else ""
    return f"data.forbid_licenses leaves out {len(refused)} of {len(sources)} sources, {share}: {named}{beside}"
