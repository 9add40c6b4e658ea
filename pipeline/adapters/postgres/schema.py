"""The database's schema and its migrations, by Alembic."""

from __future__ import annotations

import math
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from pipeline.adapters.postgres.engine import allow, transaction, translating

# Any number that no other program locks in this database; "celeriac" read as a number in base 36.
_LOCK = 965_411_346_324


class Schema:
    """The schema of one database."""

    def __init__(self, engine: sa.Engine) -> None:
        """Over an engine shared with the rest of the process."""
        self._engine = engine

    def migrate(self) -> str:
        """Bring the database to the newest revision and return it; safe when several processes start at once.

        One session at a time holds the lock; a second one waits, and finds nothing left to do.
        """
        config = _config()
        with translating(), self._engine.connect() as connection:
            allow(connection, math.inf)
            connection.execute(sa.text("SET statement_timeout = 0"))
            connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
            try:
                connection.commit()
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                connection.commit()
            finally:
                connection.rollback()
                connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK})
                connection.execute(sa.text("RESET statement_timeout"))
                connection.commit()
        return self.newest_revision()

    def newest_revision(self) -> str:
        """The revision this version of Celeriac needs."""
        return str(ScriptDirectory.from_config(_config()).get_current_head())

    def current_revision(self) -> str | None:
        """The revision the database is at, or None where it has no schema."""
        with translating(), self._engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()

    def server(self) -> tuple[str, str]:
        """The server's version, and the character type of the database, which decides what a word is."""
        with transaction(self._engine) as connection:
            version = connection.execute(sa.text("SHOW server_version")).scalar()
            ctype = connection.execute(
                sa.text("SELECT datctype FROM pg_database WHERE datname = current_database()")
            ).scalar()
        return str(version), str(ctype)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    return config
