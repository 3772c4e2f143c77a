"""Folders appear whole or not at all, and a manifest notices what changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nvembed.core.artifacts import output_folder, read_manifest, write_file, write_manifest
from nvembed.core.digests import digest_folder, digest_json
from nvembed.core.errors import UserError
from nvembed.core.state import hold


def make(path: Path, text: str = "one") -> Path:
    with output_folder(path) as folder:
        (folder / "a").mkdir()
        (folder / "a" / "text.txt").write_text(text)
        write_manifest(folder, kind="dataset", section={"seed": 17})
    return path


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    with output_folder(tmp_path / "new" / "out") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "new" / "out").exists()
    assert (tmp_path / "new" / "out" / "file").read_text() == "x"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), output_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_what_stood_there(tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    with pytest.raises(RuntimeError), output_folder(tmp_path / "out"):
        raise RuntimeError
    assert (tmp_path / "out" / "a" / "text.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_new_folder_replaces_the_old_one_altogether(tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    with output_folder(tmp_path / "out") as folder:
        (folder / "b.txt").write_text("new")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.txt"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_process_killed_midway_leaves_the_old_folder(tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    code = (
        "import os, signal, sys; from nvembed.core.artifacts import output_folder\n"
        "with output_folder(sys.argv[1]) as folder:\n"
        "    (folder / 'file').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert done.returncode == -signal.SIGKILL
    read_manifest(tmp_path / "out", verify=True)


def test_a_link_that_stands_in_the_way_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    make(tmp_path / "real")
    (tmp_path / "out").symlink_to(tmp_path / "real")
    make(tmp_path / "out", "new")
    assert not (tmp_path / "out").is_symlink()
    assert (tmp_path / "real" / "a" / "text.txt").read_text() == "one"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_file(tmp_path / "f", "old")
    with pytest.raises(UnicodeEncodeError):
        write_file(tmp_path / "f", "new" * 100_000 + "\ud800")
    assert (tmp_path / "f").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_manifest_says_what_made_the_folder(tmp_path: Path) -> None:
    manifest = read_manifest(make(tmp_path / "out"), kind="dataset", verify=True)
    assert manifest.section == {"seed": 17}
    assert manifest.content == digest_folder(tmp_path / "out")


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "a" / "text.txt").write_text("two"),
        lambda folder: (folder / "more.txt").write_text(""),
        lambda folder: (folder / "a" / "text.txt").unlink(),
        lambda folder: (folder / "a" / "text.txt").rename(folder / "text.txt"),
    ],
    ids=["edited", "added", "removed", "moved"],
)
def test_a_changed_folder_does_not_verify(tmp_path: Path, change) -> None:
    folder = make(tmp_path / "out")
    change(folder)
    with pytest.raises(UserError, match="files changed since"):
        read_manifest(folder, verify=True)


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds a dataset, but a mined is needed"):
        read_manifest(make(tmp_path / "out"), kind="mined")


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no manifest\.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"kind": "dataset", "surprise": 1})])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="not a manifest"):
        read_manifest(tmp_path)


def test_a_folders_digest_does_not_depend_on_times_or_place(tmp_path: Path) -> None:
    one, other = make(tmp_path / "one"), make(tmp_path / "other")
    os.utime(other / "a" / "text.txt", (0, 0))
    assert digest_folder(one) == digest_folder(other)


def test_a_lock_is_no_part_of_a_folders_content(tmp_path: Path) -> None:
    folder = make(tmp_path / "out")
    with hold(folder):
        read_manifest(folder, verify=True)


def test_equal_json_has_one_digest_whatever_the_order_of_keys() -> None:
    assert digest_json({"a": 1, "b": [1.0, "ü"]}) == digest_json({"b": [1.0, "ü"], "a": 1})
    assert digest_json({"a": 1}) != digest_json({"a": 2})
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest_json(float("nan"))
