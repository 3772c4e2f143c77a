"""The house's floors: a room imports only the rooms below it that docs/architecture.md lists."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "nvembed"

MAY_USE: dict[str, set[str]] = {
    "core": set(),
    "recipe": {"core"},
    "text": {"core"},
    "modeling": {"core", "recipe", "text"},
    "encoding": {"core", "modeling", "text"},
    "data": {"core", "recipe", "text"},
    "synthesis": {"core", "recipe", "data"},
    "mining": {"core", "recipe", "encoding", "modeling", "data"},
    "training": {"core", "recipe", "modeling", "text", "data"},
    "evaluation": {"core", "recipe", "modeling", "encoding", "data"},
    "tracking": {"core", "recipe"},
    "registry": {"core", "recipe", "modeling", "encoding", "evaluation", "tracking"},
    "cluster": {"core", "recipe", "tracking"},
    "steps": {
        *("core", "recipe", "text", "modeling", "encoding", "data", "synthesis", "mining", "training"),
        *("evaluation", "tracking", "registry", "cluster"),
    },
    "ablation": {"core", "recipe", "modeling", "data", "mining", "training", "evaluation", "steps"},
}
MAY_USE["cli"] = {*MAY_USE, "cli"}

HOMES = {
    "kfp": {"cli", "cluster"},
    "mlflow": {"tracking", "registry"},
    "kubernetes": {"cluster"},
}
STANDARD = set(sys.stdlib_module_names)
LIGHT = ["text", "modeling", "encoding", "training"]
ABSENT = ["pyarrow", "kfp", "mlflow", "mteb", "kubernetes", "sentence_transformers", "pydantic", "matplotlib", "pandas"]


def imports(file: Path) -> set[str]:
    """Every module that a file imports or names, anywhere in it, as absolute dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports relatively; write the whole name"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and re.fullmatch(r"nvembed(\.\w+)+", str(node.value)):
            found.add(node.value)  # a module named for a lazy import or a process of its own
    return found


def rooms(names: set[str]) -> set[str]:
    """The rooms among dotted names."""
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "nvembed" and len(part) > 1 and part[1] in MAY_USE}


def files_of(room: str) -> list[Path]:
    return sorted((PACKAGE / room).rglob("*.py"))


def test_the_table_is_the_documents_table() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|$", text, flags=re.MULTILINE)
    assert [room for room, _ in rows] == list(MAY_USE)
    for room, allowed in rows:
        if allowed.startswith("all"):
            expected = {*list(MAY_USE)[: list(MAY_USE).index(room)]}
            assert {*MAY_USE[room]} - {room} == expected, room
        else:
            assert MAY_USE[room] == set(re.sub(r"\([^)]*\)|–", "", allowed).replace(",", " ").split()), room


def test_every_folder_of_the_package_is_a_room() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(MAY_USE)


@pytest.mark.parametrize("room", list(MAY_USE))
def test_a_room_imports_only_what_the_table_allows(room: str) -> None:
    files = files_of(room)
    assert files
    wrong = {
        f"{file.relative_to(PACKAGE)} imports {other}"
        for file in files
        for other in rooms(imports(file)) - MAY_USE[room] - {room}
    }
    assert wrong == set()


@pytest.mark.parametrize("library", list(HOMES))
def test_a_platforms_library_stays_in_its_rooms(library: str) -> None:
    wrong = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if file.relative_to(PACKAGE).parts[0] not in HOMES[library]
        and any(name.split(".")[0] == library for name in imports(file))
    }
    assert wrong == set()


def test_the_ground_floor_needs_the_standard_library_alone() -> None:
    tops = {name.split(".")[0] for file in files_of("core") for name in imports(file)}
    assert tops - STANDARD == {"nvembed"}


@pytest.mark.parametrize(
    "file", sorted((ROOT / "components").glob("*/component.py")), ids=lambda file: file.parent.name
)
def test_a_components_body_calls_this_package_alone(file: Path) -> None:
    inside = {name for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) for name in body_imports(node)}
    outside = {name for name in imports(file) - inside if name.split(".")[0] not in STANDARD}
    assert {name.split(".")[0] for name in inside} - STANDARD == {"nvembed"}
    assert {name for name in outside if name.split(".")[0] != "kfp"} <= {"components.common.BASE_IMAGE"}


def body_imports(node: ast.AST) -> set[str]:
    """What a function imports in its body."""
    if not isinstance(node, ast.FunctionDef):
        return set()
    found = [inner for inner in ast.walk(node) if isinstance(inner, ast.ImportFrom | ast.Import)]
    return {f"{i.module}.{a.name}" if isinstance(i, ast.ImportFrom) else a.name for i in found for a in i.names}


@pytest.mark.parametrize("room", LIGHT)
def test_a_light_room_imports_its_modules_where_the_rest_is_not_installed(room: str) -> None:
    # DeepSpeed itself needs pydantic, so a machine that trains has it.
    absent = [name for name in ABSENT if not (room == "training" and name == "pydantic")]
    modules = [".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in files_of(room)]
    done = python(
        f"""
        import importlib.machinery, importlib.util

        finder = importlib.machinery.PathFinder
        find = finder.find_spec

        @staticmethod
        def find_what_is_installed(name, path=None, target=None):
            return None if name.split(".")[0] in {absent!r} else find(name, path, target)

        finder.find_spec = find_what_is_installed
        for name in {absent!r}:
            assert importlib.util.find_spec(name) is None
        import nvembed
        for name in {modules!r}:
            importlib.import_module(name.removesuffix(".__init__"))
        if {room!r} == "modeling":
            nvembed.NVEmbedModel.from_card("random:mistral-tiny").encode(["a text"])
        """
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_package_is_quick_and_brings_no_torch() -> None:
    done = python(
        """
        import sys, time
        started = time.perf_counter()
        import nvembed
        assert time.perf_counter() - started < 2
        heavy = {"torch", "transformers", "numpy", "pydantic"} & set(sys.modules)
        assert not heavy, heavy
        """
    )
    assert done.returncode == 0, done.stderr


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new process."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=120
    )
