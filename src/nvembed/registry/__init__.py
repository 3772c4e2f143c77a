"""Models that leave the house: exported, described, registered, promoted. Everything is imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvembed.registry.champions import Champion, champion, champion_results
    from nvembed.registry.exporting import export, model_digest
    from nvembed.registry.promotion import promote, rollback
    from nvembed.registry.publishing import publish
    from nvembed.registry.records import Record, read_records
    from nvembed.registry.registering import register
    from nvembed.registry.versions import Version, find_version, list_versions

_HOMES = {
    "Champion": "champions",
    "Record": "records",
    "Version": "versions",
    "champion": "champions",
    "champion_results": "champions",
    "export": "exporting",
    "find_version": "versions",
    "list_versions": "versions",
    "model_digest": "exporting",
    "promote": "promotion",
    "publish": "publishing",
    "read_records": "records",
    "register": "registering",
    "rollback": "promotion",
}
__all__ = [
    "Champion",
    "Record",
    "Version",
    "champion",
    "champion_results",
    "export",
    "find_version",
    "list_versions",
    "model_digest",
    "promote",
    "publish",
    "read_records",
    "register",
    "rollback",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"nvembed.registry.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'nvembed.registry' has no attribute {name!r}")
