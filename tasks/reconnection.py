"""What a worker held when its connection to Redis broke goes back to the queues when it connects again.

Celery gives such messages back on the connection that has just broken, which fails without a word, and forgets them.
They stay under the worker's own key, and since the worker lives nobody rescues them (see ``tasks.recovery``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import redis
import redis.exceptions
import structlog
from celery import bootsteps, current_app
from celery.worker import consumer as worker_consumer
from celery.worker import state
from kombu.transport import redis as transport

import celeryconfig
from tasks import runtime
from tasks.handover import is_leaving

_log = structlog.get_logger(__name__)

_REPLIES = ".reply.celery.pidbox"
_REPLY_MS = 60_000
# How soon a worker tries again to connect, and again.
_CONNECTS = {"interval_start": 0.2, "interval_step": 0.2, "interval_max": 2.0}


class ForgivingQoS(transport.QoS):
    """What a worker holds outlives the connection it came over: while that is broken, and once there is another."""

    def restore_unacked(self, client: Any = None) -> None:
        """Called when the channel closes. What is being run is not given back, or it would be run twice: its slot does
        not end with the connection, but with the worker.
        """
        if not is_leaving():
            for tag in _running():
                self._delivered.pop(tag, None)
        super().restore_unacked(client)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """As the base class. Where the connection is what broke, it can't, and the error would end the worker: what
        could not be given back stays under the worker's key.
        """
        try:
            super().restore_unacked_once(stderr)
        except Exception as error:  # noqa: BLE001 - of all kinds, an AttributeError among them
            _log.warning("messages not given back on a broken connection", error=str(error))

    def ack(self, delivery_tag: str) -> None:
        """As the base class, over a connection that is there: without it the message would come again, and be worked
        off beside what its task has just sent.
        """
        self._end(delivery_tag, transport.QoS.ack)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """As the base class, over a connection that is there."""
        self._end(delivery_tag, partial(transport.QoS.reject, requeue=requeue))

    def _end(self, tag: str, tell: Callable[..., None]) -> None:
        _ended.add(tag)
        try:
            tell(self, tag)
        except Exception:  # noqa: BLE001 - as above
            with _another_connection() as qos:
                tell(qos, tag)
            self._quick_ack(tag)
        finally:
            _ended.discard(tag)


@contextmanager
def _another_connection() -> Iterator[transport.QoS]:
    with current_app.connection_for_write() as connection:
        # Without Redis the message comes again, which is seen then. What is raised is what Celery takes for a broken
        # connection: of anything else a prefork worker dies.
        connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
        yield connection.default_channel.qos


# Of tasks that are over, and of which Redis is being told so.
_ended: set[str] = set()


def _running() -> set[str]:
    return {request.message.delivery_tag for request in tuple(state.active_requests)} | _ended


class HonestChannel(transport.Channel):
    """Says that its connection is gone in a way that kombu knows how to mend, with a new connection: its own is an
    AttributeError, which loses the message that was to be sent and ends a prefork worker. And saves time.
    """

    QoS = ForgivingQoS
    _shared: redis.Redis | None = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        """Kombu makes a client for every command; ours is for all on one pool, which is what holds connections."""
        if asynchronous:  # has a pool of its own
            return super()._create_client(asynchronous=True)
        shared = self._shared
        if shared is None or shared.connection_pool is not self.pool:
            shared = self._shared = super()._create_client()
        return shared

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        """As the base class. A worker's reply to `inspect` that comes when nobody waits for it any more expires."""
        super()._put(queue, message, **kwargs)
        if queue.endswith(_REPLIES):
            with self.conn_or_acquire() as client:
                client.pexpire(queue, _REPLY_MS)

    def close(self) -> None:
        """As the base class, which on the way makes itself another pool when it gives messages back, and keeps it."""
        super().close()
        self._disconnect_pools()
        self._shared = None

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        if self.connection is None:
            raise redis.exceptions.ConnectionError("the channel was closed with its connection")
        parameters: dict[str, Any] = super()._connparams(asynchronous)
        if asynchronous:
            parameters["connection_class"] = _leaving_its_poller(parameters["connection_class"], self.connection.cycle)
        return parameters


def _leaving_its_poller(connection_class: type[Any], cycle: Any) -> type[Any]:
    """Connections that leave the poller before they are closed. Kombu takes them out afterwards, by a number that is no
    descriptor any more. Where a child was forked meanwhile it holds the connection open, so that the system goes on
    telling of it: a loop that keeps a whole processor busy until that child ends (celery#4185 has the cause).
    """

    class Connection(connection_class):  # type: ignore[misc]
        def disconnect(self, *args: Any, **kwargs: Any) -> None:
            # The poller of a child is its parent's.
            if self._sock is not None and os.getpid() == self.pid:
                with suppress(OSError, ValueError, KeyError):  # it was closed, or was never in it
                    cycle.poller.unregister(self._sock)
            super().disconnect(*args, **kwargs)

    return Connection


transport.Transport.Channel = HonestChannel


def held_key(token: str) -> str:
    """The hash of the messages that a worker holds, by delivery tag."""
    return f"{celeryconfig.broker_transport_options['global_keyprefix']}unacked:{token}"


def index_key(token: str) -> str:
    """When each of them was delivered, in Unix seconds, by delivery tag."""
    return f"{celeryconfig.broker_transport_options['global_keyprefix']}unacked_index:{token}"


class Consumer(worker_consumer.Consumer):  # type: ignore[misc]
    """Connects again soon after Redis is back. Celery's own tries after 2, 4, 6 … 30 seconds, and an outage of three
    seconds takes all workers away for six.
    """

    def ensure_connected(self, conn: Any) -> Any:
        """As the base class, which leaves no other way to say how often."""
        conn.ensure_connection = partial(conn.ensure_connection, **_CONNECTS)
        try:
            return super().ensure_connected(conn)
        finally:
            del conn.ensure_connection


class GiveBack(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """On every connection: what lies under our token and is not being run came over a connection that is gone."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, parent: Any) -> None:
        """Restore it, before the consumer asks for more."""
        keys: Any = runtime.parts().redis.hkeys(held_key(celeryconfig.worker_token))
        running = _running()
        lost = {key.decode() for key in keys} - running
        for tag in lost:
            parent.connection.default_channel.qos.restore_by_tag(tag)
        if lost:
            _log.warning("messages given back after a reconnection", count=len(lost), kept=len(running))


class Orphans:
    """Messages under this worker's key that it knows nothing of: the acknowledgement of what it ran while Redis went
    away was lost with the connection. They would lie there for as long as the worker lives.
    """

    def __init__(self) -> None:
        """None seen yet."""
        self._suspects: set[tuple[str, float]] = set()

    def give_back(self, app: Any) -> int:
        """Restore those that were orphans at the last look too, by the same delivery: one that has just come is known a
        moment later, and one that comes again has the same tag.
        """
        _let_go_of_the_dead()
        key = held_key(celeryconfig.worker_token)
        held: Any = runtime.parts().redis.zrange(index_key(celeryconfig.worker_token), 0, -1, withscores=True)
        known = {request.message.delivery_tag for request in tuple(state.reserved_requests)} | _ended
        unknown = {(tag.decode(), since) for tag, since in held if tag.decode() not in known}
        orphans = {tag for tag, _ in unknown & self._suspects if not self._waits(key, tag)}
        self._suspects = unknown
        if orphans:
            with app.connection_for_write() as connection:
                for tag in orphans:
                    connection.default_channel.qos.restore_by_tag(tag)
            _log.warning("orphaned messages given back", count=len(orphans))
        return len(orphans)

    def _waits(self, key: str, tag: str) -> bool:
        # A message with a time to come is in the worker's timer, which can't be asked.
        held: Any = runtime.parts().redis.hget(key, tag)
        return held is None or json.loads(held)[0].get("headers", {}).get("eta") is not None


def _let_go_of_the_dead() -> None:
    """Give back the messages of tasks whose greenlet ended by an error of Celery's own, as where it could neither store
    a result nor that this failed. Celery would count them as running for ever.
    """
    if not runtime.is_patched():
        return
    for request in tuple(state.active_requests):
        greenlet = request._apply_result and request._apply_result()
        if request.worker_pid is not None and (greenlet is None or greenlet.dead):
            state.task_ready(request)
            request.reject(requeue=True)
            _log.warning("a task that broke off was given back", task=request.name, id=request.id)
