"""What MLflow is given to copy may be written over, whoever owns the code."""

from __future__ import annotations

from pathlib import Path

from nvembed.registry.own_code import ENTRY, PACKAGE, code_to_log


def test_a_copy_of_code_that_nobody_may_write_can_be_written(tmp_path: Path) -> None:
    package = tmp_path / "nvembed"
    (package / "registry" / "__pycache__").mkdir(parents=True)
    (package / ENTRY).write_text("x = 1\n")
    (package / "registry" / "__pycache__" / "embedder.pyc").write_text("")
    for path in [*package.rglob("*"), package]:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        with code_to_log(package) as copy:
            found = sorted(path.relative_to(copy) for path in copy.rglob("*"))
            assert found == [Path("registry"), ENTRY]
            assert all(path.stat().st_mode & 0o200 for path in [copy, *copy.rglob("*")])
            assert (copy / ENTRY).read_text() == "x = 1\n"
        assert not copy.exists()
    finally:
        for folder in [package, package / "registry", package / "registry" / "__pycache__"]:
            folder.chmod(0o755)


def test_the_entry_is_where_it_is_said_to_be() -> None:
    assert (PACKAGE / ENTRY).is_file()
