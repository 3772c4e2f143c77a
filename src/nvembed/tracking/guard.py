"""Who may move an alias: what MLflow's own permissions cannot say, asked of every request to its server.

MLflow lets whoever may register a version move the model's aliases too. Here the pipeline may register, and only a
promoter decides which version serves: `authorization_function = nvembed.tracking.guard:authenticate` in the
configuration of MLflow's app `basic-auth` (`accounts.write_configuration` makes it).
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Response
    from werkzeug.datastructures import Authorization

PROMOTERS = "NVEMBED_PROMOTERS"  # names, comma-separated; administrators always may


def authenticate() -> Authorization | Response:
    """MLflow's check of name and password; then 403 for what only a promoter may do."""
    from flask import make_response, request
    from mlflow.server import auth
    from werkzeug.datastructures import Authorization

    known = auth.authenticate_request_basic_auth()
    if not isinstance(known, Authorization) or known.username is None:
        return known
    if (request.path, request.method) not in _guarded() or _is_promoter(known.username):
        return known
    if "model-versions" in request.path and not _has_alias():
        return known
    return make_response(f"Permission denied: only a promoter may do this, and {known.username} is none", 403)


def _is_promoter(name: str) -> bool:
    from mlflow.server import auth

    names = {one.strip() for one in os.environ.get(PROMOTERS, "").split(",")}
    return name in names or bool(auth.store.get_user(name).is_admin)


@functools.cache
def _guarded() -> frozenset[tuple[str, str]]:
    """Paths and methods that move or end an alias: it goes with its version, and its model's name is part of it."""
    from mlflow.protos import model_registry_pb2 as calls
    from mlflow.server.handlers import get_endpoints

    wanted = {
        calls.SetRegisteredModelAlias,
        calls.DeleteRegisteredModelAlias,
        calls.DeleteRegisteredModel,
        calls.RenameRegisteredModel,
        calls.DeleteModelVersion,
    }
    found = get_endpoints(lambda call: call if call in wanted else None)
    return frozenset((path, method) for path, call, methods in found if call in wanted for method in methods)


def _has_alias() -> bool:
    """Whether the version that the request names carries one. A version without may go: old ones are cleaned up."""
    from flask import request
    from mlflow.exceptions import MlflowException
    from mlflow.server.handlers import _get_model_registry_store

    asked = request.get_json(force=True, silent=True) or request.args
    try:
        version = _get_model_registry_store().get_model_version(str(asked.get("name")), str(asked.get("version")))
    except MlflowException:
        return False  # no such version: the server says so itself
    return bool(version.aliases)
