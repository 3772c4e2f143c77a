"""What cells share, made once and kept as state: the prepared data, each way of mining, each choice of eval sets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nvembed
from nvembed.core.artifacts import MANIFEST, Manifest, link_file, output_folder, read_manifest, write_manifest
from nvembed.core.digests import digest_file, digest_json
from nvembed.core.errors import UserError
from nvembed.core.state import hold, state_folder
from nvembed.recipe import Recipe

STATE = "ablation"
ROOMS = ("core", "recipe", "text", "modeling", "encoding", "data", "mining", "training", "evaluation")
OWN = ("ablation/plan.py", "ablation/shared.py", "ablation/cells.py")


@functools.cache
def numbers_code() -> str:
    """Digest of the source that a cell's numbers come from.

    `core.digests.code_digest` covers the whole package: with it, a word changed in a report would cost every cell.
    """
    root = Path(nvembed.__file__).parent
    files = [path for room in ROOMS for path in sorted((root / room).rglob("*.py"))] + [root / name for name in OWN]
    return digest_json({path.relative_to(root).as_posix(): digest_file(path) for path in files})


def piece(what: str, **made_by: Any) -> Path:
    """The state folder of one piece of an ablation, named by all that decides it and by the code."""
    return state_folder(STATE, digest_json({"what": what, "code": numbers_code(), **made_by}))


class Shared:
    """Folders that cells read. Each is made when it is first asked for, and found again afterwards."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def prepared(self) -> tuple[Path, Path]:
        """Dataset and eval sets."""
        from nvembed.data import prepare

        data = self.recipe.data
        home = piece("data", data=data.model_dump(mode="json"))
        dataset, eval_sets = home / "dataset", home / "eval"
        with hold(home):
            if not (is_whole(dataset) and is_whole(eval_sets)):
                prepare(data, dataset, eval_sets)
        return dataset, eval_sets

    def mined(self, recipe: Recipe) -> Path:
        """The dataset with the negatives that an arm's `mining` section finds."""
        from nvembed.mining import mine

        dataset, _ = self.prepared()
        section = recipe.mining
        home = piece("mined", mining=section.model_dump(mode="json"), dataset=read_manifest(dataset).content)
        return self._made(home, "mined", lambda out: mine(section, recipe.resources, dataset, out))

    def eval_sets(self, tasks: Sequence[str]) -> Path:
        """The eval sets of some tasks alone: what a family is not judged by is not measured."""
        _, source = self.prepared()
        manifest = read_manifest(source)
        home = piece("eval", tasks=list(tasks), eval=manifest.content)
        return self._made(home, "eval", lambda out: _select(source, manifest, tasks, out))

    @staticmethod
    def _made(home: Path, name: str, make: Callable[[Path], None]) -> Path:
        with hold(home):
            if not is_whole(home / name):
                make(home / name)
        return home / name


def is_whole(folder: Path) -> bool:
    """Whether an artifact folder is there (folders appear whole or not at all)."""
    try:
        read_manifest(folder)
    except UserError:
        return False
    return True


def _select(source: Path, manifest: Manifest, tasks: Sequence[str], out: Path) -> None:
    with output_folder(out) as folder:
        for file in sorted(source.rglob("*")):
            place = file.relative_to(source)
            if file.is_file() and file.name != MANIFEST and len(place.parts) == 3 and place.parts[1] in tasks:
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                link_file(file, folder / place)
        write_manifest(
            folder,
            kind="eval",
            section={"tasks": list(tasks)},
            inputs={"eval_sets": manifest.content},
            counts=manifest.counts,
            licenses=manifest.licenses,
        )
