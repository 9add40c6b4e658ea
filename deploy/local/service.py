"""A server of the embedded stack that runs: its address, its process, and how it is stopped."""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from deploy.local.processes import ProcessRef, collect
from pipeline.errors import Conflict, InternalFault

ServiceName = Literal["redis", "postgres"]

STOP_WITHIN = 15.0
_RECORD = "service.json"
_STOP_SIGNALS: dict[ServiceName, tuple[signal.Signals, ...]] = {
    "redis": (signal.SIGTERM,),
    # Fast shutdown: sessions are closed, everything is written; then immediate shutdown.
    "postgres": (signal.SIGINT, signal.SIGQUIT),
}


class ServiceRecord(BaseModel):
    """What is known of a running server beyond the life of the process that started it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ServiceName
    url: str
    process: ProcessRef
    socket_folder: Path | None = None
    """Folder of its socket where that is not its data folder; removed when the server is stopped."""


@dataclass(frozen=True)
class RunningService:
    """A server that works in ``folder``, whoever started it."""

    record: ServiceRecord
    folder: Path

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self.record.url

    def alive(self) -> bool:
        """Whether its process runs."""
        return self.record.process.alive()

    def stop(self) -> None:
        """Stop it in good order, by force where that takes too long; raises InternalFault if it won't go."""
        process = self.record.process
        if not any(_ends(process, number) for number in _STOP_SIGNALS[self.record.name]):
            process.kill_session()
            if not process.wait(STOP_WITHIN):
                raise InternalFault(f"{self.record.name} (pid {process.pid}) does not stop.", "Stop it by hand.")
        collect(process)
        if self.record.socket_folder is not None:
            shutil.rmtree(self.record.socket_folder, ignore_errors=True)
        (self.folder / _RECORD).unlink(missing_ok=True)


def remember(service: RunningService) -> RunningService:
    """Write the service's record into its folder, so that it is found even when its starter was killed."""
    (service.folder / _RECORD).write_text(service.record.model_dump_json())
    return service


def recorded(folder: Path) -> RunningService | None:
    """The service that was started in ``folder`` and not stopped; it may have died since."""
    try:
        text = (folder / _RECORD).read_text()
    except FileNotFoundError:
        return None
    try:
        return RunningService(ServiceRecord.model_validate_json(text), folder)
    except ValidationError:
        return None


def refuse_second(folder: Path) -> None:
    """Raise Conflict where a server still works in ``folder``: two would destroy its data."""
    earlier = recorded(folder)
    if earlier is not None and earlier.alive():
        name, pid = earlier.record.name, earlier.record.process.pid
        raise Conflict(f"A {name} server (pid {pid}) already works in {folder}.", "Stop it with `manage.py down`.")


def _ends(process: ProcessRef, number: signal.Signals) -> bool:
    process.send(number)
    return process.wait(STOP_WITHIN)
