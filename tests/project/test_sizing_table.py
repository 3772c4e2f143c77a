"""The table of docs/cluster.md that says what recipes need is what its script prints."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
from manifest_files import ROOT

GUIDE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")


@pytest.fixture
def script(monkeypatch) -> ModuleType:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # undone afterwards, which the script's own setting is not
    spec = importlib.util.spec_from_file_location("sizing_table", ROOT / "scripts" / "sizing_table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("nvembed.modeling.source.hub_answers", lambda: False)
    return module


def test_the_guide_has_a_row_for_each_machine_and_a_small_one_is_what_the_script_prints(script):
    head = f"| {' | '.join(script.HEAD)} |"
    rows = GUIDE[GUIDE.index(head) :].split("\n\n")[0].splitlines()[2:]
    assert len(rows) == len(script.MACHINES)
    for line, (recipe, _, gpus, memory, chip) in zip(rows, script.MACHINES, strict=True):
        assert line.startswith(f"| `{recipe}`") and f"{gpus} × {chip} {memory}" in line
    assert rows[0] == f"| {' | '.join(script.row(*script.MACHINES[0]))} |"


@pytest.mark.slow
def test_a_recipe_that_does_not_fit_says_so(script):
    assert "does not fit" in script.row("finetune-nvembed", (), 1, "16GB", "L4")[3]


@pytest.mark.slow
def test_the_guides_table_is_what_the_script_prints(script):
    assert script.table() in GUIDE, "run `python scripts/sizing_table.py` and put its table there"
