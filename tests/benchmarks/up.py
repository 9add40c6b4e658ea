"""``manage.py up`` with the benchmark's timers in the workers and without Flower; started by servers.py."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from deploy.console.output import note
from deploy.console.stack import everyone_listens, migrate_stack
from deploy.local.procfile import read_procfile
from deploy.local.stack import up

_TIMED = ("ask", "ingest", "parse")
_LEFT_OUT = "flower"


def main() -> None:
    """Run until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, required=True)
    home = Path(os.environ["CELERIAC_HOME"])
    stack = up(
        home,
        workers=parser.parse_args().workers,
        environment=dict(os.environ),
        prepare=migrate_stack,
        ready=everyone_listens,
        on_event=note,
        procfile=_procfile(home),
    )
    stack.wait()


def _procfile(home: Path) -> Path:
    """The project's Procfile, its workers started with ``--include tests.benchmarks.timers``."""
    kinds = {kind: command for kind, command in read_procfile().items() if kind != _LEFT_OUT}
    for kind in _TIMED:
        kinds[kind] += " --include tests.benchmarks.timers"
    path = home / "Procfile"
    path.write_text("".join(f"{kind}: {command}\n" for kind, command in kinds.items()))
    return path


if __name__ == "__main__":
    main()
