"""The report of the benchmark of asking as a table for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.benchmarks.report import amounts, line

Report = dict[str, Any]


def table(report: Report) -> str:
    """All parts, figures beside their targets."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    for name, part in report.items():
        if not isinstance(part, dict) or "part_seconds" not in part:
            continue
        yield f"\n{name} ({part['part_seconds']} s in all)"
        yield from _scale(part) if "ratio" in part else _store(part, report)
        if "error" in part:
            yield line("failed", part["error"])


def _store(part: Report, report: Report) -> Iterator[str]:
    targets = report["targets"]
    for pair in part.get("rounds", []):
        for who, load in pair.items():
            yield from _load(who, load)
    if "cpu_ratio" in part:
        yield _against("processor time over the twin's", part["cpu_ratio"], targets["cpu_ratio"])
        yield _against("rate over the twin's", part["rate_ratio"], targets["rate_ratio"], least=True)
    for load in part.get("latency", []):
        yield from _latency(load, targets)
    if "cached" in part:
        inside = part["cached"]["inside_ms"]
        yield line("cached: inside the pipeline", f"{_times(inside)}; {_busy(part['cached'])}")
        yield _against("    p50, ms", inside["p50"], targets["cached_p50"])
    for load in part.get("flight", []):
        yield from _flight(load, report)
    for name, ms in part.get("profile", {}).items():
        yield line(f"ms of workers {name.replace('_', ' ')}", amounts({k: v for k, v in ms.items() if v >= 0.05}))


def _load(who: str, load: Report) -> Iterator[str]:
    yield line(
        f"{who}, {load['in_flight']} in flight",
        f"{load['per_second']} a second, {load['cpu_ms']} ms of processor each; {_busy(load)}",
    )
    yield line("    ms by process", amounts(load["cpu_ms_by_process"]))
    yield line("    of Postgres", amounts(load["postgres_ms"]))
    yield line("    first piece, whole answer", f"{_times(load['first_ms'])}; {_times(load['whole_ms'])}")
    if load["errors"]:
        yield line("    ERRORS", load["errors"])


def _latency(load: Report, targets: dict[str, float]) -> Iterator[str]:
    at, above = load["in_flight"], load["above_upstream_ms"]
    yield line(f"first piece, above upstream, {at} at once", f"{_times(above)}; {_busy(load)}")
    for quantile in ("p50", "p95"):
        if (target := targets.get(f"above_upstream_{at}_{quantile}")) is not None:
            yield _against(f"    {quantile}, ms", above[quantile], target)


def _flight(load: Report, report: Report) -> Iterator[str]:
    yield from _load("celeriac", load)
    at, targets = load["in_flight"], report["targets"]
    if f"rate_{at}_share" in targets:
        possible = at / (report["upstream"]["embedding"] + report["upstream"]["last"])
        share = round(load["per_second"] / possible, 2)
        yield _against(f"    of {possible:.0f} a second possible", share, targets[f"rate_{at}_share"], least=True)
        yield _against("    whole answer p95, ms", load["whole_ms"]["p95"], targets[f"whole_{at}_p95"])
    yield line("    peak MB", amounts(load["peak_mb"]) + f", redis data {load['redis_mb']:g}")


def _scale(part: Report) -> Iterator[str]:
    for workers in ("1", "2"):
        yield from _load(f"{workers} worker{'s' * (workers > '1')}, {part['store']}", part[workers])
    yield line("rate of two over rate of one", part["ratio"])


def _against(name: str, value: float, target: float, *, least: bool = False) -> str:
    met = value >= target if least else value <= target
    return line(name, f"{value}  (target: at {'least' if least else 'most'} {target:g}, {'met' if met else 'MISSED'})")


def _busy(load: Report) -> str:
    return f"processors busy {load['busy']:.0%}, by other programs {load['others']:.0%}"


def _times(ms: dict[str, float]) -> str:
    return f"p50 {ms['p50']:.0f}, p95 {ms['p95']:.0f}, max {ms['max']:.0f} ms"
