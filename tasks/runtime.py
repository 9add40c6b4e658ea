"""Parts, once per process."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from functools import cache

from pipeline import settings
from pipeline.wiring import Parts

_lock = threading.Lock()
_parts: Parts | None = None


def prepare_process() -> None:
    """Make gRPC and kombu wait cooperatively in a gevent worker; must come before Weaviate's client is imported.

    Without it one call to Weaviate stops every other task of the worker, and so does each wait of kombu's before it
    tries again: Celery imports that module before it patches ``time``, so an outage of Redis stood all slots still.
    """
    if not is_patched():
        return
    import gevent
    from kombu.utils import functional

    functional.sleep = time.sleep  # type: ignore[attr-defined]  # imported, not exported
    gevent.config.track_greenlet_tree = False  # each greenlet would keep the stack that it was started from
    if os.environ.get("WEAVIATE_URL"):
        from grpc.experimental import gevent as grpc_gevent

        grpc_gevent.init_gevent()


@cache
def is_patched() -> bool:
    """Whether this process is a gevent worker."""
    if "gevent" not in sys.modules:
        return False
    from gevent import monkey

    return bool(monkey.is_module_patched("socket"))


def collect_less_garbage() -> None:
    """Look for cycles less often, and not at all among what was there before the first task: a message makes thousands
    of objects and hardly a cycle.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def parts() -> Parts:
    """The parts of this process, from its environment."""
    global _parts
    if _parts is None:
        with _lock:
            if _parts is None:
                _parts = Parts(settings.load())
    return _parts


def forget() -> None:
    """Drop the parts without closing them: after a fork they belong to the parent."""
    global _parts
    _parts = None


def use(parts: Parts) -> None:
    """Work with these parts: a program that has built its own shares them with the tasks it sends."""
    global _parts
    _parts = parts
