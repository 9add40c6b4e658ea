"""The schema's migrations, by Alembic; safe when several processes start at once."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from pipeline.adapters.postgres.engine import translating

# Any number that no other program locks in this database; "celeriac" read as a number in base 36.
_LOCK = 965_411_346_324


def migrate(engine: sa.Engine) -> str:
    """Bring the database to the newest revision and return it.

    One session at a time holds the lock; a second one waits, and finds nothing left to do.
    """
    config = _config()
    with translating(), engine.connect() as connection:
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
    return newest_revision()


def newest_revision() -> str:
    """The revision this version of Celeriac needs."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def current_revision(engine: sa.Engine) -> str | None:
    """The revision the database is at, or None where it has no schema."""
    with translating(), engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    return config
