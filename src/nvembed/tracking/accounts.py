"""MLflow's server with log-ins: its configuration, its tables, and who may do what.

    python -m nvembed.tracking.accounts prepare    before a server starts: configuration, tables, administrator
    python -m nvembed.tracking.accounts users      against a running server: accounts, rights, new passwords

Three accounts: `pipeline` writes runs and registers versions, `promoter` sets aliases (see `guard`), `serving` reads.
"""

from __future__ import annotations

import configparser
import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nvembed.core.errors import UserError
from nvembed.tracking.client import prepare_mlflow

logger = logging.getLogger(__name__)
# (kind, permission) on all of that kind; reading is everyone's
GRANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "pipeline": (("experiment", "EDIT"), ("registered_model", "EDIT")),
    "promoter": (("registered_model", "MANAGE"),),
    "serving": (),
}
_WORKSPACE = "default"
_LOCK = 0x6E76656D  # any number, the same in all replicas


def write_configuration(file: Path, database: str) -> None:
    """The file that `MLFLOW_AUTH_CONFIG_PATH` names. It holds the database's address, so nobody else may read it."""
    made = configparser.ConfigParser(interpolation=None)
    made["mlflow"] = {
        "default_permission": "READ",
        "database_uri": database.replace("%", "%%"),  # MLflow reads it with interpolation
        "admin_username": "admin",
        "authorization_function": "nvembed.tracking.guard:authenticate",
        "auth_cache_ttl_seconds": "60",
    }
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        made.write(stream)


def prepare(database: str, configuration: Path) -> None:
    """Configuration, tables and administrator, by one replica at a time: two that begin at once would collide.

    A database of an older MLflow is left as it is, with an error: `mlflow db upgrade` comes behind a backup.
    """
    write_configuration(configuration, database)
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(configuration)
    prepare_mlflow()
    with _alone(database):
        from mlflow.server.auth import bootstrap_admin_user
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        SqlAlchemyStore(database, "mlflow-artifacts:/")
        bootstrap_admin_user()


def make_accounts(server: str, passwords: Mapping[str, str]) -> None:
    """Make each account with its rights, or give one that is there its present password.

    Args:
        server: where MLflow answers; `MLFLOW_TRACKING_USERNAME` and `…_PASSWORD` are an administrator's.
        passwords: name → password. Raises UserError for a name that is none of `GRANTS`.
    """
    if unknown := sorted(set(passwords) - set(GRANTS)):
        raise UserError(f"no such account: {', '.join(unknown)}; known: {', '.join(GRANTS)}")
    prepare_mlflow()
    from mlflow.exceptions import MlflowException
    from mlflow.server.auth.client import AuthServiceClient

    client = AuthServiceClient(server)
    roles = {role.name: role for role in client.list_roles(_WORKSPACE)}
    for name, password in passwords.items():
        try:
            client.create_user(name, password)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            client.update_user_password(name, password)
        role = roles.get(name) or client.create_role(_WORKSPACE, name)
        there = {(one.resource_type, one.permission) for one in client.list_role_permissions(role.id)}
        for kind, permission in GRANTS[name]:
            if (kind, permission) not in there:
                client.add_role_permission(role.id, kind, "*", permission)
        if name not in {one.name for one in client.list_user_roles(name)}:
            client.assign_role(name, role.id)
        logger.info("account %s is ready", name)


@contextlib.contextmanager
def _alone(database: str) -> Iterator[None]:
    """Hold a lock of the database's own while the body runs; SQLite has one server and needs none."""
    from sqlalchemy import create_engine, text

    if database.startswith("sqlite:"):
        yield
        return
    engine: Any = create_engine(database)
    with engine.connect() as connection:
        connection.execute(text(f"SELECT pg_advisory_lock({_LOCK})"))
        yield
    engine.dispose()


def main(arguments: list[str]) -> None:
    """The two commands, with their settings from the environment, where secrets come by."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if arguments == ["prepare"]:
            prepare(os.environ["MLFLOW_BACKEND_STORE_URI"], Path(os.environ["MLFLOW_AUTH_CONFIG_PATH"]))
        elif arguments == ["users"]:
            folder = Path(os.environ["PASSWORDS"])
            passwords = {name: (folder / name).read_text(encoding="utf-8").strip() for name in GRANTS}
            make_accounts(os.environ["MLFLOW_TRACKING_URI"], passwords)
        else:
            raise UserError("say `prepare` or `users`")
    except KeyError as error:
        raise SystemExit(f"{error.args[0]} is not set") from None
    except (UserError, OSError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main(sys.argv[1:])
