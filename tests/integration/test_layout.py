"""Queues, routes and processes say the same."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from deploy.local.procfile import read_procfile
from pipeline.wiring import Parts

POOLS = {"ask": "gevent", "ingest": "gevent", "parse": "prefork", "control": "prefork"}


@pytest.fixture
def config(parts: Parts) -> ModuleType:
    import celeryconfig

    return celeryconfig


def option(command: str, name: str) -> str:
    words = command.split()
    return words[words.index(name) + 1]


def test_every_task_goes_to_a_queue_that_is_declared(app: Any, config: ModuleType) -> None:
    queues = {queue.name for queue in config.task_queues}
    ours = sorted(name for name in app.tasks if not name.startswith("celery."))
    assert len(ours) > 14
    routed = {name: app.amqp.router.route({}, name)["queue"].name for name in ours}
    assert set(routed.values()) == queues
    assert {name: queue for name, queue in routed.items() if name.split(".")[0] != queue} == {
        "ingest.parse": "parse",
        "ingest.chunk": "parse",
    }


def test_a_queue_that_is_not_declared_is_not_made_up(app: Any, config: ModuleType) -> None:
    """A message in it would wait for ever."""
    assert config.task_create_missing_queues is False
    with pytest.raises(Exception, match="askk"):
        app.amqp.router.route({"queue": "askk"}, "ask.guard")


def test_the_processes_serve_each_queue_with_the_pool_it_needs(config: ModuleType) -> None:
    commands = read_procfile()
    assert {queue.name for queue in config.task_queues} == set(POOLS)
    for queue, pool in POOLS.items():
        assert option(commands[queue], "-Q") == queue
        assert option(commands[queue], "-P") == pool


def test_what_the_schedule_names_exists(app: Any, config: ModuleType) -> None:
    for entry in config.beat_schedule.values():
        assert entry["task"] in app.tasks
        assert entry["options"]["queue"] in {queue.name for queue in config.task_queues}
        assert entry["options"]["expires"] > entry["schedule"]


def test_only_what_a_caller_or_a_chord_waits_for_is_stored(app: Any) -> None:
    stored = {name for name, task in app.tasks.items() if not name.startswith("celery.") and not task.ignore_result}
    assert {name for name in stored if not name.endswith(".canary")} == {"ask.record", "ingest.upsert"}


def test_each_queue_has_a_canary_of_its_own(app: Any, config: ModuleType) -> None:
    for queue in config.task_queues:
        assert app.amqp.router.route({}, f"{queue.name}.canary")["queue"].name == queue.name
        assert f"{queue.name}.canary" in app.tasks


def test_work_is_acknowledged_when_it_is_done_and_kept_long_enough(app: Any, config: ModuleType, parts: Parts) -> None:
    """The shortest visibility timeout among all clients of a broker wins: all three settings must say the same."""
    assert all(app.tasks[name].acks_late for name in app.tasks if name.startswith(("ask.", "ingest.")))
    timeouts = {
        config.visibility_timeout,
        config.broker_transport_options["visibility_timeout"],
        config.result_backend_transport_options["visibility_timeout"],
    }
    assert timeouts == {parts.settings.visibility_timeout}
    assert config.broker_transport_options["max_connections"] >= 100


def test_two_installations_on_one_server_do_not_meet(config: ModuleType, parts: Parts) -> None:
    prefix = f"{parts.settings.namespace}:"
    assert config.broker_transport_options["global_keyprefix"] == prefix
    assert config.result_backend_transport_options["global_keyprefix"] == prefix
    assert [key for key in parts.redis.scan_iter("*") if key.startswith((b"celery", b"_kombu", b"unacked"))] == []
