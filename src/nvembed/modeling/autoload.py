"""Makes transformers' Auto classes know `nvembed` models after `import nvembed`, without importing transformers.

Importing the Auto classes takes seconds, and `import nvembed` must not. So each registration waits until transformers
itself loads the module in question; where it has done so already, registration is at once.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import logging
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

logger = logging.getLogger(__name__)
_AUTO = "transformers.models.auto"


# each of our modules registers itself at its end, so that it does not matter who imports it first
_WAITING = {
    f"{_AUTO}.configuration_auto": "nvembed.modeling.hf_config",
    f"{_AUTO}.modeling_auto": "nvembed.modeling.hf_model",
    f"{_AUTO}.tokenization_auto": "nvembed.modeling.hf_tokenizer",
}


class _Then(importlib.abc.Loader):
    """A module's own loader, and a module of ours to import once it has run."""

    def __init__(self, loader: Any, then: str) -> None:
        self._loader, self._then = loader, then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _attempt(self._then)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the Auto modules as Python does, and has them registered with when they are loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        then = _WAITING.get(fullname)
        if then is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, then)
        return spec


def _attempt(module: str) -> None:
    """A transformers that cannot take the registration must still serve everyone else in this process."""
    try:
        importlib.import_module(module)
    except Exception:
        logger.warning("nvembed models are unknown to transformers' Auto classes", exc_info=True)


def install() -> None:
    """Register with what transformers has loaded, and wait for the rest. Calling it again does nothing."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Finder())
    for name, ours in _WAITING.items():
        if name in sys.modules:
            _attempt(ours)
