"""What a worker held when its connection to Redis broke goes back to the queues when it connects again.

Celery gives such messages back on the connection that has just broken, which fails without a word, and forgets them.
They stay under the worker's own key, and since the worker lives nobody rescues them (see ``tasks.recovery``).
"""

from __future__ import annotations

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


class GiveBack(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """On every connection: what lies under our token and is not being run came over a connection that is gone."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, parent: Any) -> None:
        """Restore it, before the consumer asks for more."""
        prefix = celeryconfig.broker_transport_options["global_keyprefix"]
        keys: Any = runtime.parts().redis.hkeys(f"{prefix}unacked:{celeryconfig.worker_token}")
        running = {request.message.delivery_tag for request in state.active_requests}
        lost = {key.decode() for key in keys} - running
        for tag in lost:
            parent.connection.default_channel.qos.restore_by_tag(tag)
        if lost:
            _log.warning("messages given back after a reconnection", count=len(lost), kept=len(running))
