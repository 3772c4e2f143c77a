"""The sources of a recipe as a table for people and as JSON for programs, with how surely each fact is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from nvembed.data.adapters import MixCheck
    from nvembed.recipe import Data, Place


def source_rows(data: Data) -> list[dict[str, Any]]:
    """One mapping a source, by name: all that the recipe says of it."""
    from nvembed.data.adapters.mix import expected_columns, left_out

    out = left_out(data)
    return [
        {
            "name": name,
            "stages": list(source.stages),
            "task_type": source.task_type,
            "place": place_of(source),
            "revision": source.revision,
            "shape": None if source.synthesis else source.shape,
            "columns": expected_columns(source),
            "label_rule": (data.label_rule or source.label_rule) if source.label_rule else None,
            "instruction": source.instruction or data.instructions[source.task_type],
            "cap": source.cap,
            "rows": source.rows,
            "license": source.license,
            "known": dict(source.known),
            "fallback": [place_of(place) for place in source.fallback],
            "left_out": out.get(name),
        }
        for name, source in sorted(data.sources.items(), key=lambda item: (min(item[1].stages), item[0]))
    ]


def place_of(place: Place) -> str:
    """`owner/name config/split`, a path, or `synthesis`."""
    if place.path is not None:
        return place.path
    if place.repo is None:
        return "synthesis"
    part = place.files or "/".join(part for part in (place.config, place.split or "train") if part)
    return f"{place.repo} {part}"


def source_table(data: Data) -> RichTable:
    """The table of `nvembed recipe show --sources`."""
    table = _table("name", "stage", "place @ revision", "shape", "columns", "cap", "licence", "marks")
    for row in source_rows(data):
        revision = f" @ {row['revision'][:8]}" if row["revision"] else ""
        columns = ", ".join(f"{role}: {column}" for role, column in row["columns"].items())
        shape = " ".join(filter(None, (row["shape"], row["label_rule"])))
        said = f"{row['license']}\nleft out: {row['left_out']}" if row["left_out"] else row["license"]
        stages = "+".join(str(stage) for stage in row["stages"])
        cap = f"{row['cap']:,}" if row["cap"] else "all"
        table.add_row(row["name"], stages, f"{row['place']}{revision}", shape, columns, cap, said, marks(row["known"]))
    return table


def check_table(check: MixCheck) -> RichTable:
    """The table of `nvembed data check`."""
    table = _table("name", "state", "place", "columns", "rows", "examples", "licence", "found")
    for state in check.states:
        card, said = state.license_on_card, state.source.license
        style = {"ok": "green", "failed": "bold red"}.get(state.state, "dim")
        columns = ", ".join(f"{role}: {column}" for role, column in state.columns.items())
        numbers = [f"{number:,}" if number is not None else "" for number in (state.rows, state.examples)]
        licence = f"{said} (card: {card})" if card else said
        found = "\n".join(state.says)
        table.add_row(state.name, f"[{style}]{state.state}[/]", state.place, columns, *numbers, licence, found)
    return table


def check_rows(check: MixCheck) -> list[dict[str, Any]]:
    """The same for programs; `example` is the first finished one, where sources were read through."""
    from dataclasses import asdict

    return [
        {
            "name": state.name,
            "state": state.state,
            "place": state.place,
            "revision": state.revision,
            "columns": state.columns,
            "rows": state.rows,
            "examples": state.examples,
            "license": state.source.license,
            "license_on_card": state.license_on_card,
            "found": state.says,
            "example": asdict(state.first) if state.first is not None else None,
        }
        for state in check.states
    ]


def marks(known: dict[str, str]) -> str:
    """What is known from memory alone: `M: columns, cap`; `F` if nothing is; `?` where the recipe does not say."""
    guessed = [key for key, mark in known.items() if mark == "M"]
    if not known:
        return "?"
    return f"M: {', '.join(guessed)}" if guessed else "F"


def print_table(table: RichTable) -> None:
    """Print a table as wide as the terminal, or wide enough to be searched where there is none."""
    import sys

    from rich.console import Console

    width = None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False, emoji=False).print(table)


def _table(*columns: str) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable

    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        right = column in ("cap", "rows", "examples")
        table.add_column(column, overflow="fold", justify="right" if right else "left", no_wrap=column == "name")
    return table
