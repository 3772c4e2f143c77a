"""`make demo` says what a machine lacks before it installs anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "check_machine.py"


def run(*arguments: str, change: str = "") -> subprocess.CompletedProcess[str]:
    """Run the script, after `change` has set other limits than this machine meets."""
    program = f"import sys; sys.argv[0] = 'x'; sys.path.insert(0, {str(SCRIPT.parent)!r}); import check_machine as c\n"
    code = f"{program}{change}\nsys.exit(c.main())"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def test_a_fit_machine_is_told_how_long_it_takes() -> None:
    done = run("--recipe", "laptop", change="c.DISK_GB = c.MEMORY_GB = 0")
    assert done.returncode == 0, done.stderr
    assert "set-up about" in done.stdout
    assert "recipe laptop about" in done.stdout


def test_an_installed_machine_is_told_the_run_alone() -> None:
    done = run("--recipe", "laptop", "--installed", change="c.DISK_INSTALLED_GB = c.MEMORY_GB = 0")
    assert "set-up" not in done.stdout


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("c.PYTHON = (3, 99)", "install Python 3.99 or newer"),
        ("c.NEWEST = (3, 10)", "newer than what is pinned works with"),
        ("c.DISK_GB = 10**9", "1000000000 GB needed; free some"),
        ("c.MEMORY_GB = 10**9", "1000000000 GB needed; close other programs"),
    ],
)
def test_each_lack_is_one_line_with_its_mend_and_exit_2(change: str, says: str) -> None:
    limits = "c.DISK_GB = c.MEMORY_GB = 0"
    done = run("--recipe", "laptop", change=f"{limits}\n{change}")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("check: ")
    assert says in line


def test_an_old_python_could_still_read_the_script() -> None:
    import ast

    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 7))
