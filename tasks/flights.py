"""Those who follow a question get what it comes to, or are sent on their own way (:mod:`pipeline.caching.flights`)."""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog
from celery import states

from pipeline.caching.caches import for_others
from pipeline.caching.flights import Follower, as_followed
from pipeline.errors import wrap
from pipeline.types import Answer, AskState
from pipeline.wiring import Parts
from tasks import canvases
from tasks.app import app

_log = structlog.get_logger(__name__)
_WORTH_IT = 0.5
"""Seconds that must be left for a question to be sent again."""
_MUCH_LONGER = 5.0
"""Who has so many seconds more than the leader had may yet get a full answer where that one got a lesser one, or none.
"""


def land(state: AskState, answer: Answer, parts: Parts, worker: str) -> None:
    """Keep the answer, and give it to those who follow: to rows, results and readers, in this order. Never raises: the
    leader's own answer is on record, and those who were not told are found by the sweep.
    """
    try:
        _land(state, answer, parts, worker)
    except Exception as error:  # noqa: BLE001 - see above
        _log.warning("those who follow were not told", question=answer.question_id, error=str(wrap(error)))


def _land(state: AskState, answer: Answer, parts: Parts, worker: str) -> None:
    followers = parts.caches.keep(state, answer)
    if answer.degraded:
        followers = patient_sent_again(followers, state.question.deadline, parts)
    if not followers or state.kb is None:
        return
    now, shared = time.time(), for_others(answer)
    answers = {one.question_id: as_followed(one, shared, now, worker) for one in followers}
    epochs = {one.question_id: one.epoch for one in followers}
    ended = parts.questions.finish_all(list(answers.values()), epochs, kb_id=state.kb.id)
    _log.info("answer shared", question=answer.question_id, followers=len(ended))
    for question_id in ended:
        app.backend.store_result(question_id, answers[question_id].encode(), states.SUCCESS)
        parts.streams.append(question_id, "done")


def patient_sent_again(followers: Sequence[Follower], deadline: float, parts: Parts) -> list[Follower]:
    """Send those again who have much more time than a leader that had until ``deadline``; returns the others."""
    enough = deadline + _MUCH_LONGER
    send_again([one for one in followers if one.deadline > enough], parts)
    return [one for one in followers if one.deadline <= enough]


def give_up(state: AskState, parts: Parts) -> None:
    """A question that was cancelled leads no more. Whoever cancelled it has seen to that, unless it came to lead later,
    by a stage that was under way.
    """
    if state.cache and state.cache.leads:
        send_again(parts.flights.land(state.question.id, {}, 1.0), parts)


def send_again(followers: Sequence[Follower], parts: Parts) -> None:
    """Their leader is gone: each begins anew, and one of them leads."""
    for follower in followers:
        if follower.deadline - time.time() < _WORTH_IT:
            continue  # the sweep ends it
        try:
            _send(follower, parts)
        except Exception as error:  # noqa: BLE001 - the others must be sent all the same, and this one by the sweep
            _log.warning("a question was not sent again", question=follower.question_id, error=str(wrap(error)))


def _send(follower: Follower, parts: Parts) -> None:
    epoch = parts.questions.resubmit(follower.question_id)
    if epoch is not None:
        question = parts.questions.find(follower.question_id).question
        canvases.ask(question.model_copy(update={"epoch": epoch})).apply_async()
