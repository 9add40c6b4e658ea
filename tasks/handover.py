"""How a chain goes on inside one worker: where the next task's queue is one that this worker serves, it is run at once,
in the same slot, instead of being sent to the broker and fetched from it again.

It is a task like any other, with an id, a request, events, retries and errbacks of its own, run by Celery's own tracer.
What it lacks is a message of its own: the one that began it all is acknowledged when the last task has ended, and what
becomes of a worker that dies in between is what becomes of any message. So tasks that are handed over must be such that
all of them may be done again.

A task that is to be tried again later, or that a worker leaves undone when it is told to stop, is sent as a message.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from functools import cache
from typing import Any

from celery import Task
from celery.app.trace import fast_trace_task, trace_task_ret
from celery.worker import state
from kombu.message import Message

from pipeline.types import AskState
from tasks import runtime
from tasks.leftovers import TidyRequest

# The request whose task runs in this slot, for what its task calls. Each slot has a context of its own.
_running: ContextVar[HandingRequest | None] = ContextVar("running", default=None)


class Handed:
    """What a stage gives to the next one: its state as it is, which is encoded only where it is sent. To encode and to
    decode it six times is a twentieth of a question's processor time.
    """

    __slots__ = ("state",)

    def __init__(self, state: AskState) -> None:
        """The state after a stage."""
        self.state = state

    def __repr__(self) -> str:
        """Celery describes what each task gives, for people; this is for none."""
        return "(…)"


def opened(given: Handed | dict[str, Any]) -> AskState:
    """The state that a stage was given, by the one before it or in a message."""
    return given.state if isinstance(given, Handed) else AskState.decode(given)


def encoded(args: Any) -> Any:
    """Arguments as they are sent."""
    return tuple(arg.state.encode() if isinstance(arg, Handed) else arg for arg in args or ())


def keep(task: Task, args: Any, kwargs: Any, options: dict[str, Any]) -> bool:
    """Keep a task that was about to be sent, if it is the next of the chain that is worked off here and may be run
    here, too. False: it is to be sent.
    """
    request = _running.get()
    if request is None or not _comes_next(task, options) or not _is_served_here(task) or not request.may_go_on(task):
        return False
    link, link_error = options.pop("link", None), options.pop("link_error", None)
    options.setdefault("ignore_result", task.ignore_result)
    request.following = task.app.amqp.as_task_v2(
        name=task.name, args=args, kwargs=kwargs, callbacks=link, errbacks=link_error, **options
    )
    return True


class HandingRequest(TidyRequest):
    """A delivery that passes its message on to the next task of its chain."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Celery derives a class for each task, in which it writes out what it takes ``on_success`` to be."""
        super().__init_subclass__(**options)
        cls.on_success = HandingRequest.on_success  # type: ignore[method-assign]  # that's what it is for

    following: Any = None
    """The message of the task that comes next."""

    def may_go_on(self, task: Task) -> bool:
        """Whether this task may be run in the same slot, too. A worker that is told to stop still does the last one: an
        answer that is written need not wait for another worker, of which there may be none.
        """
        stays = getattr(task, "comes_last", False) or not is_leaving()
        return runtime.parts().settings.hand_over and not _is_limited(self) and stays

    def info(self, safe: bool = False) -> Any:
        """What ``inspect`` tells of it: its arguments as they are described, never as they are. One that was handed on
        can't be sent, and others hold a question.
        """
        return super().info(safe=True)

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Called in the slot before the task is run."""
        if runtime.is_patched():  # the slots of other workers are processes
            _running.set(self)
        super().on_accepted(pid, time_accepted)

    def on_success(self, failed__retval__runtime: Any, **options: Any) -> None:
        """Called when the task was run, whether or not it succeeded, in the slot in which it was run."""
        try:
            self._go_on(*failed__retval__runtime, **options)
        finally:
            _running.set(None)  # a slot's context outlives it

    def _go_on(self, failed: int, result: Any, seconds: float, **options: Any) -> None:
        if failed or self.following is None:
            super().on_success((failed, result, seconds), **options)
            return
        following = self._following()
        state.task_reserved(following)  # somebody always holds the message, or it would be given back
        self.send_event("task-succeeded", result=result, runtime=seconds)
        accepted = following._accept(self.worker_pid)
        state.task_ready(self, successful=True)
        if accepted:
            following.on_success(following._run())

    def _following(self) -> HandingRequest:
        headers, properties, body, _ = self.following
        message = Message(
            body=body,
            delivery_tag=self.message.delivery_tag,
            properties=properties,
            headers=headers,
            delivery_info={"exchange": "", "routing_key": _queue(self._app.tasks[headers["task"]])},
        )
        request = HandingRequest(
            message,
            on_ack=self.on_ack,
            on_reject=self.on_reject,
            app=self._app,
            hostname=self.hostname,
            eventer=self.eventer,
            connection_errors=self.connection_errors,
            decoded=True,
        )
        request._apply_result = self._apply_result  # the slot, by which a task is known to be alive
        return request

    def _accept(self, slot: int) -> bool:
        """What a worker does with a message before it runs its task; False: the task was revoked."""
        said = {name: self.request_dict[name] for name in ("root_id", "parent_id", "retries", "eta", "expires")}
        self.send_event("task-received", name=self.name, args=self.argsrepr, kwargs=self.kwargsrepr, **said)
        if self.revoked():
            return False
        self.on_accepted(slot, time.monotonic())
        return True

    def _run(self) -> Any:
        trace = fast_trace_task if self._app.use_fast_trace_task else trace_task_ret
        return trace(self.type, self.id, self.request_dict, self.body, None, None)


def _comes_next(task: Task, options: dict[str, Any]) -> bool:
    now = task.app.current_worker_task
    chain: Any = now.request.chain if now else None
    return bool(chain) and chain[-1]["options"].get("task_id") == options.get("task_id")


def is_leaving() -> bool:
    """Whether the worker was told to stop; the exit status that Celery notes then may be 0."""
    return any(status is not None and status is not False for status in (state.should_stop, state.should_terminate))


def _is_limited(request: HandingRequest) -> bool:
    """Whether there is a bound on the time of its slot, which all tasks that are run in it would have to share."""
    return any((*request.time_limits, request.task.time_limit, request.task.soft_time_limit))


def _is_served_here(task: Task) -> bool:
    return _queue(task) in task.app.amqp.queues.consume_from


@cache
def _queue(task: Task) -> str:
    return str(task.app.amqp.router.route({}, task.name)["queue"].name)
