"""What a worker held when its connection to Redis broke goes back to the queues when it connects again.

Celery gives such messages back on the connection that has just broken, which fails without a word, and forgets them.
They stay under the worker's own key, and since the worker lives nobody rescues them (see ``tasks.recovery``).
"""

from __future__ import annotations

import json
from typing import Any

import redis.exceptions
import structlog
from celery import bootsteps
from celery.worker import state
from kombu.transport import redis as transport

import celeryconfig
from tasks import runtime

_log = structlog.get_logger(__name__)


class ForgivingQoS(transport.QoS):
    """Gives back what it holds when its channel closes, if it can. Where the connection is what broke, it can't, and
    the error would end the worker.
    """

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """As the base class; what could not be given back stays under the worker's key."""
        try:
            super().restore_unacked_once(stderr)
        except Exception as error:  # noqa: BLE001 - of all kinds, an AttributeError among them
            _log.warning("messages not given back on a broken connection", error=str(error))


class HonestChannel(transport.Channel):
    """Says that its connection is gone in a way that kombu knows how to mend, with a new connection. Its own is an
    AttributeError, which loses the message that was to be sent and ends a prefork worker.
    """

    QoS = ForgivingQoS

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        if self.connection is None:
            raise redis.exceptions.ConnectionError("the channel was closed with its connection")
        parameters: dict[str, Any] = super()._connparams(asynchronous)
        return parameters


transport.Transport.Channel = HonestChannel


def held_key(token: str) -> str:
    """The hash of the messages that a worker holds, by delivery tag."""
    return f"{celeryconfig.broker_transport_options['global_keyprefix']}unacked:{token}"


class GiveBack(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """On every connection: what lies under our token and is not being run came over a connection that is gone."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, parent: Any) -> None:
        """Restore it, before the consumer asks for more."""
        keys: Any = runtime.parts().redis.hkeys(held_key(celeryconfig.worker_token))
        running = {request.message.delivery_tag for request in state.active_requests}
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
        self._suspects: set[str] = set()

    def give_back(self, app: Any) -> int:
        """Restore those that were orphans at the last look too: one that has just come is known a moment later."""
        key = held_key(celeryconfig.worker_token)
        held: Any = runtime.parts().redis.hkeys(key)
        known = {request.message.delivery_tag for request in tuple(state.reserved_requests)}
        unknown = {tag.decode() for tag in held} - known
        orphans = {tag for tag in unknown & self._suspects if not self._waits(key, tag)}
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
