"""Write manifests/NN-*.yaml from manifests/kustomize/overlays/default, for a plain `kubectl apply -f manifests/`.

The overlay changes nothing, it only gathers: so each file is its source word for word under a number that keeps the
order of application. An overlay that changes things would need kustomize; this script refuses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "manifests"
OVERLAY = FOLDER / "kustomize" / "overlays" / "default"
HEAD = "# Made by scripts/render_manifests.py from {source}; edit that one.\n"


def sources(folder: Path) -> Iterator[Path]:
    """The files that a kustomization gathers, in its order."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    unknown = set(kustomization) - {"apiVersion", "kind", "resources"}
    if unknown:
        raise SystemExit(f"{folder}: {', '.join(sorted(unknown))} needs kustomize; the plain files only gather")
    for name in kustomization["resources"]:
        path = (folder / name).resolve()
        yield from sources(path) if path.is_dir() else [path]


def render() -> dict[str, str]:
    """The numbered files: name to text."""
    files = {}
    for number, source in enumerate(sources(OVERLAY)):
        head = HEAD.format(source=source.relative_to(ROOT).as_posix())
        files[f"{number * 10:02d}-{source.name}"] = head + source.read_text(encoding="utf-8")
    return files


def main() -> None:
    """Write them, and remove numbered files that are no longer among them."""
    files = render()
    for stale in FOLDER.glob("[0-9]*.yaml"):
        if stale.name not in files:
            stale.unlink()
    for name, text in files.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
