"""The commands that show and try the sources of a mix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mix_stand_in import write_stand_in

from nvembed.cli import main


def test_the_table_of_sources_shows_places_pins_and_marks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "show", "nvembed-v2", "--sources"]) == 0
    shown = capsys.readouterr().out
    lines = {line.split()[0]: line for line in shown.splitlines() if line.strip() and line[1] != " "}
    assert "mteb/msmarco default/train" in lines["msmarco"] and "500,000" in lines["msmarco"]
    assert "M: columns" in lines["bioasq"] and "M: " not in lines["msmarco"]
    assert "left out: the" in shown


def test_the_table_of_sources_for_programs_holds_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "show", "nvembed-v2", "--sources", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert len(rows) == 43
    assert rows["fiqa"]["columns"] == {"query_id": "query-id", "positive_ids": "corpus-id", "score": "score"}
    assert rows["bioasq"]["known"]["columns"] == "M"
    assert rows["emotion"]["label_rule"] == "example-based"
    assert rows["msmarco"]["revision"] == "c5a29a104738b98a9e76336939199e264163d4a0"


def test_forbidden_licences_are_shown_with_the_share_they_cost(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["recipe", "show", "nvembed-v2", "--sources", "--set", "data.forbid_licenses=[non-commercial]"]
    assert main(command) == 0
    assert "leaves out 5 of 43 sources" in capsys.readouterr().out


def test_a_recipe_without_a_mix_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "show", "tiny", "--sources"]) == 0
    assert "not a mix of sources" in capsys.readouterr().out
    assert main(["data", "check", "tiny"]) == 2


def test_the_check_reads_a_folder_in_place_of_the_hub(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fixtures = str(write_stand_in(tmp_path, 12))
    assert main(["data", "check", "nvembed-v2", "--fixtures", fixtures, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["state"] for row in rows} == {"ok", "left out"}
    assert all(row["example"] for row in rows if row["state"] == "ok")
    command = ["data", "check", "nvembed-v1", "--fixtures", fixtures, "--set", "data.only=[fiqa, nq]"]
    assert main(command) == 0
    assert "mteb/fiqa@" in capsys.readouterr().out
