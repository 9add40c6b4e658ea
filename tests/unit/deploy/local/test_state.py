"""The state file, and the lock that only one stack can hold."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deploy.local.processes import ProcessRef
from deploy.local.service import ServiceRecord
from deploy.local.state import FlowerAccess, StackState, read_state, remove_state, stack_lock, write_state
from pipeline.errors import BadSettings, Conflict
from pipeline.ingest.discover import discover
from pipeline.types import RecordFields

ME = ProcessRef.of(os.getpid())
STATE = StackState(
    phase="ready",
    supervisor=ME,
    started_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    workers=2,
    services=(ServiceRecord(name="redis", url="redis://127.0.0.1:1/0", process=ME),),
    processes={"ask-1": ME},
    flower=FlowerAccess(url="http://127.0.0.1:2", user="celeriac", password="secret"),
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_state(tmp_path, STATE)
    assert read_state(tmp_path) == STATE
    remove_state(tmp_path)
    assert read_state(tmp_path) is None


def test_nobody_else_may_read_the_state_and_no_draft_is_left(tmp_path: Path) -> None:
    write_state(tmp_path, STATE)
    (path,) = tmp_path.iterdir()
    assert path.name == "stack.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_password_is_not_in_the_representation() -> None:
    assert "secret" not in repr(STATE)


def test_a_damaged_state_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("{")
    with pytest.raises(BadSettings, match=r"stack\.json"):
        read_state(tmp_path)


def test_a_stack_is_ready_only_while_its_supervisor_lives() -> None:
    dead = STATE.model_copy(update={"supervisor": ProcessRef(pid=ME.pid, birth="long ago")})
    assert STATE.ready
    assert not dead.running
    assert not dead.ready
    assert not STATE.model_copy(update={"phase": "starting"}).ready


def test_settings_find_the_services_through_the_state() -> None:
    assert STATE.environment == {"REDIS_URL": "redis://127.0.0.1:1/0"}


def test_the_lock_has_one_holder_and_is_free_again_afterwards(tmp_path: Path) -> None:
    with stack_lock(tmp_path), pytest.raises(Conflict, match="being started or stopped"), stack_lock(tmp_path):
        pass
    with stack_lock(tmp_path):
        write_state(tmp_path, STATE)
        with pytest.raises(Conflict, match="is up already"), stack_lock(tmp_path):
            pass


def test_an_ingest_of_a_folder_above_passes_over_all_of_it(tmp_path: Path) -> None:
    with stack_lock(tmp_path / "stack"):
        write_state(tmp_path / "stack", STATE)
    assert list(discover([tmp_path], fields=RecordFields(), max_record_bytes=1000)) == []
