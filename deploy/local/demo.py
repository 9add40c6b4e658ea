"""``make demo``: the whole of Celeriac once, on the embedded stack, from nothing to two cited answers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from deploy.local.procfile import PROJECT

_QUESTIONS = (
    "What happens to the messages that a killed worker held?",
    "Why is the prefetch multiplier of the gevent workers not 1?",
)
# The demo shows what needs nothing: services and keys of the reader's own stay out of it.
_OWN_SERVICES = ("REDIS_URL", "DATABASE_URL", "WEAVIATE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL")


def main() -> int:
    """Run the demo in a folder of its own; whatever happens, stop what was started. Returns the exit status."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="celeriac-demo-", ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o711)  # else Postgres, which does not run as root, would keep its data elsewhere
        environment = {name: value for name, value in os.environ.items() if name not in _OWN_SERVICES}
        environment = {name: value for name, value in environment.items() if not name.startswith("CELERIAC_")}
        environment["CELERIAC_HOME"] = home
        try:
            status = _run_all(environment)
        except KeyboardInterrupt:
            status = 130
        finally:
            _manage(("down",), environment)
    print(f"\nDemo finished with exit status {status} after {time.monotonic() - begun:.0f} s; everything is stopped.")
    return status


def _run_all(environment: dict[str, str]) -> int:
    steps: list[Sequence[str]] = [
        ("up", "--detach"),
        ("ingest", "README.md", "docs"),
        *(("ask", question) for question in _QUESTIONS),
        ("status",),
    ]
    for step in steps:
        print(f"\n$ python manage.py {' '.join(repr(word) if ' ' in word else word for word in step)}", flush=True)
        status = _manage(step, environment)
        if status:
            return status
    return 0


def _manage(arguments: Sequence[str], environment: dict[str, str]) -> int:
    command = (sys.executable, str(Path(PROJECT) / "manage.py"), *arguments)
    return subprocess.run(command, cwd=PROJECT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
