"""The Celery application: what ``celery -A tasks.app`` loads."""

from __future__ import annotations

from typing import Any

from celery import Celery, signals

from pipeline import logs
from pipeline.ask.rehearsal import rehearse
from tasks import heartbeat, limits, runtime
from tasks.events import JoinedEvents
from tasks.reconnection import GiveBack

runtime.prepare_process()

app = Celery("celeriac", include=["tasks.ask", "tasks.ingest", "tasks.control"])
app.config_from_object("celeryconfig")
app.steps["consumer"].update({GiveBack, JoinedEvents})


@signals.setup_logging.connect
def _configure_logging(**_: Any) -> None:
    settings = runtime.parts().settings
    logs.configure(settings.log_format, settings.log_level)


# Celery sends the next task of a chain itself, and gives the chain up where it can't: a worker waits for a broker that
# restarts, some 20 seconds in all.
_PUBLISH_RETRIES = {"max_retries": 22, "interval_start": 0.1, "interval_step": 0.3, "interval_max": 1.0}


@signals.worker_init.connect
def _warm_up(**_: Any) -> None:
    app.conf.task_publish_retry_policy = _PUBLISH_RETRIES
    # In a gevent worker this process runs the tasks. A prefork parent only forks: connections must not cross that.
    if runtime.is_patched():
        runtime.parts().warm_up()
        runtime.collect_less_garbage()


@signals.celeryd_after_setup.connect
def _rehearse(instance: Any, **_: Any) -> None:
    # Only now it is known which queues are served.
    if runtime.is_patched() and "ask" in instance.app.amqp.queues.consume_from:
        heartbeat.note_missing(rehearse(runtime.parts()))


@signals.worker_process_init.connect
def _begin_child(**_: Any) -> None:
    runtime.forget()
    parts = runtime.parts()
    limits.bound_memory(parts.settings.parse_memory_mb)
    parts.bound_documents = limits.TimeBound(parts.settings.parse_timeout).documents


@signals.worker_ready.connect
def _start_heartbeat(sender: Any, **_: Any) -> None:
    heartbeat.start(sender, runtime.parts())


@signals.worker_shutdown.connect
def _leave(**_: Any) -> None:
    heartbeat.stop()
    runtime.parts().close()
