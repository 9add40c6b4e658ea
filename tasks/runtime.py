"""Parts, once per process."""

from __future__ import annotations

import os
import sys
import threading

from pipeline import settings
from pipeline.wiring import Parts

_lock = threading.Lock()
_parts: Parts | None = None


def prepare_process() -> None:
    """Make gRPC wait cooperatively in a gevent worker; must come before Weaviate's client is imported.

    Without it one call to Weaviate stops every other task of the worker.
    """
    if is_patched() and os.environ.get("WEAVIATE_URL"):
        from grpc.experimental import gevent as grpc_gevent

        grpc_gevent.init_gevent()


def is_patched() -> bool:
    """Whether this process is a gevent worker."""
    if "gevent" not in sys.modules:
        return False
    from gevent import monkey

    return bool(monkey.is_module_patched("socket"))


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
