"""Nothing is lost: what dead workers held is delivered again, and what Redis forgot is sent again from Postgres.

Three gaps, three remedies, all run by ``control.sweep`` and safe to run anywhere, at once, any number of times:

* A worker that was killed leaves its messages under ``unacked:<token>``. Nobody gives them back in a cluster of gevent
  workers (celery#4968), and the visibility timeout would take an hour. Its heartbeat is missing after
  CELERIAC_HEARTBEAT_TTL: then they go back to their queues.
* A message that was lost altogether (Redis without its append-only file; a crash between BRPOP and the note of it)
  leaves a row without an end and without a message: it is sent again under a new epoch.
* A question past its deadline is failed, so that its row, and its caller, come to an end whatever happened.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import structlog

import celeryconfig
from pipeline.errors import DeadlineExceeded, InternalFault
from pipeline.wiring import Parts
from tasks import attempts, broker, canvases, outcome
from tasks.app import app
from tasks.heartbeat import registry_key, report_key
from tasks.reconnection import held_key

_log = structlog.get_logger(__name__)

# A row younger than this may not have its message yet; a run silent for so long has no worker on it.
SETTLE_SECONDS = 10.0
# Whoever lists sources says twice a minute that it lives.
LISTING_SECONDS = 300.0
# After a question's own deadline its stages get this long to say so themselves.
_GRACE_SECONDS = 3.0
_PAGE = 1000


def redeliver(parts: Parts) -> int:
    """Give back the messages of workers whose heartbeat has stopped; returns of how many workers."""
    members: Any = parts.redis.smembers(registry_key(parts))
    tokens = [token.decode() for token in members]
    dead = [token for token in tokens if not parts.redis.exists(report_key(parts, token))]
    return sum(_rescue(token, parts) for token in dead)


def reconcile_questions(parts: Parts) -> int:
    """End questions that are past their deadline, resubmit those without a message; returns how many it touched."""
    now = time.time()
    waiting = parts.questions.open_before(now - SETTLE_SECONDS)
    late = [question for question in waiting if question.deadline + _GRACE_SECONDS < now]
    for question in late:
        unseen = attempts.failure_unseen(question)
        outcome.fail_question(question.id, DeadlineExceeded("No answer came in time."), question.epoch, unseen)
    early = [question for question in waiting if question.deadline > now]
    lost = _followed_by_nobody(_without_message({question.id for question in early}, parts), parts)
    for question in early:
        if question.id in lost and (epoch := parts.questions.resubmit(question.id)) is not None:
            _log.warning("question sent again", question=question.id, epoch=epoch)
            canvases.ask(question.model_copy(update={"epoch": epoch})).apply_async()
    return len(late) + len(lost)


def reconcile_runs(parts: Parts) -> int:
    """Go on with the lanes of running runs that have no message; end runs whose discovery was abandoned."""
    for run_id in parts.runs.abandoned(LISTING_SECONDS):
        cause = InternalFault("The program that listed the sources ended before it was done.", "Ingest again.")
        parts.runs.finish(run_id, "failed", error=cause)
    silent = {f"{run_id}.{lane}": (run_id, lane) for run_id, lane in parts.batches.silent_lanes(SETTLE_SECONDS)}
    lost = _without_message(set(silent) | {f"{run_id}.end" for run_id, _ in silent.values()}, parts)
    sent = 0
    for name, (run_id, lane) in silent.items():
        if {name, f"{run_id}.end"} <= lost and (step := parts.batches.resend(run_id, lane)) is not None:
            _log.warning("lane sent again", run=run_id, lane=lane, step=step)
            canvases.lane(run_id, lane, step).apply_async()
            sent += 1
    return sent


def forget_dead_letters(parts: Parts) -> int:
    """Drop dead letters that nobody replayed in time, some at a time; returns how many."""
    return parts.dead_letters.expire(parts.settings.dead_letter_days * 86_400)


def forget_vectors(parts: Parts) -> int:
    """Drop vectors of questions that are too old to be used again, some at a time; returns how many."""
    return parts.question_cache.prune(parts.settings.cache_stored_ttl)


def _followed_by_nobody(ids: set[str], parts: Parts) -> set[str]:
    """Those that don't wait for another question, or for one without a message: that one leads no more."""
    leaders = parts.flights.leaders(sorted(ids))
    gone = _without_message(set(leaders.values()), parts)
    for leader in gone:
        parts.flights.land(leader, {}, 1.0)
    return {name for name in ids if name not in leaders or leaders[name] in gone}


def _rescue(token: str, parts: Parts) -> bool:
    _restore(token)
    # Restoring does nothing, without a word, while another sweep holds its lock or left it behind when it was killed.
    if parts.redis.exists(held_key(token)):
        return False
    parts.redis.srem(registry_key(parts), token)
    _log.warning("messages of a dead worker delivered again", token=token)
    return True


def _restore(token: str) -> None:
    options = {
        **celeryconfig.broker_transport_options,
        "unacked_key": f"unacked:{token}",
        "unacked_index_key": f"unacked_index:{token}",
        "unacked_mutex_key": f"unacked_mutex:{token}",
        "visibility_timeout": 0,
    }
    with app.connection_for_write(transport_options=options) as connection:
        connection.default_channel.qos.restore_visible(num=None, interval=1)


def _without_message(ids: set[str], parts: Parts) -> set[str]:
    # A message on its way from a queue to a worker, or from one stage to the next, may be missed by one look;
    # it can hardly be missed by two. (If it is, the work is done twice and recorded once.)
    missing = ids and ids - set(_ids_in_flight(parts))  # nothing asked, nothing read
    if missing:
        time.sleep(0.5)
        missing -= set(_ids_in_flight(parts))
    return missing


def _ids_in_flight(parts: Parts) -> Iterator[str]:
    """What any queue or worker holds a message of: ids of questions, and of runs with a lane or ``end`` after a dot.

    That is the task id up to its first dot, and up to its second.
    """
    for message in _messages(parts):
        parts_of_id = str(json.loads(message).get("headers", {}).get("id", "")).split(".")
        yield parts_of_id[0]
        yield ".".join(parts_of_id[:2])


def _messages(parts: Parts) -> Iterator[str | bytes]:
    for queue in celeryconfig.task_queues:
        for key in broker.keys_of(queue.name):
            first = 0
            while page := parts.redis.lrange(key, first, first + _PAGE - 1):
                yield from page
                first += _PAGE
    tokens: Any = parts.redis.smembers(registry_key(parts))
    for token in tokens:
        for _tag, held in parts.redis.hscan_iter(held_key(token.decode())):
            yield json.dumps(json.loads(held)[0])
