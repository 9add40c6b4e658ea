"""From the environment and the running stack to the parts a command works with."""

from __future__ import annotations

import atexit
import os
from typing import TYPE_CHECKING

from deploy.local.state import read_state
from pipeline import logs, settings
from pipeline.settings import Settings
from pipeline.wiring import Parts

if TYPE_CHECKING:
    from tasks.client import Client


def current_settings() -> Settings:
    """Settings; the addresses of a stack started by ``up`` count where the environment names none."""
    state = read_state(settings.load().home)
    if state is not None and state.running:
        for name, url in state.environment.items():
            os.environ.setdefault(name, url)
    # A command says what it has to say itself: of the log only what is wrong.
    logs.configure("console", "ERROR")
    return settings.load()


def current_parts() -> Parts:
    """The parts of this process; their connections are closed at its end."""
    parts = Parts(current_settings())
    atexit.register(parts.close)
    return parts


def client_of(parts: Parts) -> Client:
    """The client; Celery is imported only now, when the address of Redis is known."""
    _ = parts.redis  # says what to do where there is none, or its address is none
    _ = parts.questions, parts.streams  # imported before anything has begun that Ctrl-C would have to cancel
    from tasks import runtime

    runtime.use(parts)
    from tasks.client import Client

    return Client(parts)
