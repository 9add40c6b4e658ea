"""Reads the Procfile: which kinds of process there are, and how many copies of each to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from honcho.environ import parse_procfile

from pipeline.errors import BadSettings

PROJECT = Path(__file__).resolve().parents[2]
PROCFILE = PROJECT / "Procfile"
SCALED = ("ask", "ingest")
"""Kinds that ``--workers`` multiplies; of the others one is enough."""


@dataclass(frozen=True)
class ProcessSpec:
    """One process to run: ``name`` is its kind and number, ``command`` a line for the shell."""

    name: str
    command: str

    @property
    def argv(self) -> tuple[str, ...]:
        """The command as the shell runs it; the shell makes way for it, so signals reach it directly."""
        return ("/bin/sh", "-c", f"exec {self.command}")


def read_procfile(path: Path = PROCFILE) -> dict[str, str]:
    """Kind → command line. Raises BadSettings where there is none."""
    try:
        kinds: Mapping[str, str] = parse_procfile(path.read_text()).processes
    except (OSError, AssertionError) as error:
        raise BadSettings(f"The Procfile {path} can't be used: {error}.") from None
    if not kinds:
        raise BadSettings(f"The Procfile {path} names no process.", "Each line is `name: command`.")
    return dict(kinds)


def processes(kinds: Mapping[str, str], workers: int) -> tuple[ProcessSpec, ...]:
    """All processes to run, with ``workers`` copies of each scaled kind."""
    return tuple(
        ProcessSpec(f"{kind}-{number}", command)
        for kind, command in kinds.items()
        for number in range(1, (workers if kind in SCALED else 1) + 1)
    )
