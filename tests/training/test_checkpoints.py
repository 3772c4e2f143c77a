"""Checkpoints are whole or not there; the newest good one is found; one of something else is refused by name."""

import os
import resource
import subprocess

import pytest
import torch

from nvembed.core.errors import UserError, disk_is_full
from nvembed.training.checkpoints import (
    TENSORS,
    check_made_by,
    newest_checkpoint,
    read_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from nvembed.training.job import read_error, reserve_error, write_error

MADE_BY = {"stage": {"learning_rate": 2e-5, "steps": 10}, "dataset": "d" * 64, "code": "c" * 64}


def save(root, step, *, keep=2, size=10):
    tensors = {"weight/a": torch.full((size,), float(step)), "exp_avg/a": torch.zeros(size, 2).T}
    return save_checkpoint(root, tensors, step=step, seconds=1.5 * step, made_by=MADE_BY, keep=keep)


def test_what_is_read_is_what_was_written(tmp_path):
    save(tmp_path, 4)
    checkpoint = newest_checkpoint(tmp_path)
    assert (checkpoint.step, checkpoint.seconds, checkpoint.made_by) == (4, 6.0, MADE_BY)
    torch.testing.assert_close(checkpoint.tensors()["weight/a"], torch.full((10,), 4.0))


def test_only_the_newest_are_kept(tmp_path):
    for step in (2, 4, 6, 8):
        save(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000006", "step-00000008"]


@pytest.mark.parametrize("harm", ["flip a byte", "cut short", "no tensors", "no state", "state torn", "state changed"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, harm):
    save(tmp_path, 2)
    newest = save(tmp_path, 4)
    content = bytearray((newest / TENSORS).read_bytes())
    if harm == "flip a byte":
        content[-3] ^= 1
        (newest / TENSORS).write_bytes(content)
    elif harm == "cut short":
        (newest / TENSORS).write_bytes(content[:-8])
    elif harm == "no tensors":
        (newest / TENSORS).unlink()
    elif harm == "no state":
        (newest / "state.json").unlink()
    elif harm == "state torn":
        (newest / "state.json").write_text('{"format": 1, "st')
    else:
        changed = (newest / "state.json").read_text().replace('"step": 4', '"step": 6')
        (newest / "state.json").write_text(changed)
    with pytest.raises(UserError, match="no checkpoint here" if harm.startswith("no ") else "is damaged"):
        read_checkpoint(newest)
    assert newest_checkpoint(tmp_path).step == 2


def test_a_half_written_checkpoint_has_no_name(tmp_path):
    save(tmp_path, 2)
    (tmp_path / ".step-00000004.partial").mkdir()
    (tmp_path / ".step-00000004.partial" / TENSORS).write_bytes(b"half")
    assert newest_checkpoint(tmp_path).step == 2
    save(tmp_path, 4)
    assert newest_checkpoint(tmp_path).step == 4


def test_what_a_killed_run_left_half_written_is_cleared_away_by_the_next_checkpoint(tmp_path):
    save(tmp_path, 2)
    for left in (".step-00000003.partial", ".step-00000004.partial", ".step-00000002.ab12cd34.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / TENSORS).write_bytes(b"half")
    save(tmp_path, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000005"]


def test_going_back_to_a_checkpoint_leaves_no_later_ones(tmp_path):
    for step in (2, 4, 6):
        save(tmp_path, step, keep=3)
    remove_checkpoints(tmp_path, after=2)
    assert newest_checkpoint(tmp_path).step == 2
    remove_checkpoints(tmp_path / "nowhere", after=2)


def test_a_checkpoint_written_again_takes_the_place_of_the_former(tmp_path):
    save(tmp_path, 2, size=10)
    save(tmp_path, 2, size=20)
    assert len(newest_checkpoint(tmp_path).tensors()["weight/a"]) == 20
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_without_checkpoints_there_is_none(tmp_path):
    assert newest_checkpoint(tmp_path / "nowhere") is None


def test_a_checkpoint_of_another_recipe_is_refused_with_what_differs(tmp_path):
    checkpoint = read_checkpoint(save(tmp_path, 2))
    check_made_by(checkpoint, MADE_BY)
    other = {**MADE_BY, "stage": {"learning_rate": 1e-5, "steps": 10}, "code": "e" * 64}
    with pytest.raises(UserError) as refused:
        check_made_by(checkpoint, other)
    assert "stage.learning_rate is 1e-05, there 2e-05" in str(refused.value)
    assert "code is" in str(refused.value)
    assert "steps" not in str(refused.value)


def test_a_checkpoint_asked_for_by_name_must_be_there(tmp_path):
    with pytest.raises(UserError, match="no checkpoint here"):
        read_checkpoint(tmp_path / "step-00000002")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KB."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mounted)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small file system can be mounted by root only")
    yield mounted
    subprocess.run(["umount", str(mounted)], check=True)


def test_a_full_disk_is_told_and_leaves_the_last_checkpoint_whole(small_disk):
    root = small_disk / "checkpoints"
    save(root, 2, size=5000)
    with pytest.raises(UserError, match="disk is full"):
        save(root, 4, size=50_000)
    assert newest_checkpoint(root).step == 2
    assert [path.name for path in root.iterdir()] == ["step-00000002"]


def test_a_rank_can_tell_of_a_full_disk_on_that_disk(small_disk):
    reserve_error(small_disk)
    assert read_error(small_disk) is None
    with pytest.raises(OSError, match="No space") as full, (small_disk / "filling").open("wb", buffering=0) as filling:
        while True:
            filling.write(b"x" * 512)
    assert disk_is_full(full.value)
    write_error(small_disk, UserError("the disk is full"))
    assert read_error(small_disk) == "the disk is full"
    reserve_error(small_disk)
    assert read_error(small_disk) is None


def test_a_limit_of_a_files_size_is_told_as_a_full_disk(tmp_path):
    save(tmp_path, 2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(UserError, match="disk is full"):
            save(tmp_path, 4, size=50_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]
