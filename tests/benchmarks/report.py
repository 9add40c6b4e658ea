"""The benchmark's report as a table for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Report = dict[str, Any]
_WIDTH = 34


def table(report: Report) -> str:
    """All parts, figures beside their targets."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    for name, part in report.items():
        if not isinstance(part, dict) or name == "targets":
            continue
        yield f"\n{name} ({part['part_seconds']} s in all)"
        if "error" in part:
            yield line("failed", part["error"])
        elif name.startswith("api"):
            yield from _api(part, report["targets"])
        elif name.startswith("bulk"):
            yield from _bulk(part, report["targets"])
        elif name == "memory":
            yield from _memory(part)
        else:
            yield from _scale(part)


def _api(part: Report, targets: dict[str, float]) -> Iterator[str]:
    yield line(f"{part['documents']:,} documents, {part['ms_per_call']:g} ms a call", "")
    yield _against("seconds, submit to finalized", part["seconds"], targets["api_seconds"])
    yield line("embedding calls", f"{part['calls']} with {part['texts']:,} texts, {part['calls_at_once']} at once")
    yield line("processors", _busy(part))
    yield line("    seconds by process", amounts(part["cpu_by_process"]))


def _bulk(part: Report, targets: dict[str, float]) -> Iterator[str]:
    for pair in part["rounds"]:
        yield from _round(pair, targets)
    if "wall_ratio" in part:
        yield _against("Celeriac's time over its twin's", part["wall_ratio"], targets["wall_ratio"])
        yield line("Celeriac's processor time over its", f"{part['cpu_ratio']}")


def _round(pair: dict[str, Report], targets: dict[str, float]) -> Iterator[str]:
    for who, run in pair.items():
        rate = f"{run['passages']:,} in {run['seconds']} s, {run['passages_per_second']:,} a second"
        yield line(f"{who}: passages", rate)
        yield line("    processor ms a passage", f"{run['cpu_ms_per_passage']}; processors {_busy(run)}")
        yield line("    seconds by process", amounts(run["cpu_by_process"]))
        if who == "celeriac":
            yield line("    seconds by work", amounts(run["cpu_by_work"]))
            yield _against("    all but model and store", run["overhead_share"], targets["overhead_share"])
            yield line("    the same without documents", f"{run['bookkeeping_share']}  (reading and cutting left out)")
            yield line("    neither model nor store at work", f"{run['idle_share']} of the time")


def _memory(part: Report) -> Iterator[str]:
    yield line("peak MB at documents", " → ".join(f"{documents:,}" for documents in part["documents"]))
    for kind, peaks in part["peak_mb"].items():
        ratio = part["ratio"].get(kind)
        yield line(f"    {kind}", " → ".join(f"{mb:g}" for mb in peaks) + (f"   × {ratio}" if ratio else ""))


def _scale(part: Report) -> Iterator[str]:
    for workers in ("1", "2"):
        run = part[workers]
        yield line(f"{workers} worker{'s' * (workers > '1')}", f"{run['seconds']} s, processors {_busy(run)}")
        yield line("    seconds by process", amounts(run["cpu_by_process"]))
    yield line("time of one over time of two", part["time_ratio"])


def _against(name: str, value: float, target: float) -> str:
    return line(name, f"{value}  (target: at most {target:g}, {'met' if value <= target else 'MISSED'})")


def _busy(run: Report) -> str:
    return f"busy {run['busy']:.0%}, by other programs {run['others']:.0%}"


def line(name: str, value: Any) -> str:
    """A figure and its name."""
    return f"  {name:<{_WIDTH}} {value}".rstrip()


def amounts(found: dict[str, float]) -> str:
    """Several figures of a kind, the largest first."""
    return ", ".join(f"{kind} {seconds:g}" for kind, seconds in sorted(found.items(), key=lambda one: -one[1]))
