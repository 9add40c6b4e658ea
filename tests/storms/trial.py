"""One storm from its first question to the proof that everything is as it was before."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.storms import audit
from tests.storms.asking import Asked, Crowd, ask
from tests.storms.installation import Installation, question_about
from tests.storms.weather import CALM, Storm, Weather

LEAST_ANSWERED = 0.99
_TICK = 0.05
_FULL_WITHIN = 30.0
_FULL_IN_A_ROW = 5
_SLOTS_FULL_WITHIN = 30.0
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Demands:
    """So many questions, so many at once, with so many seconds each; ``slots`` is what each worker runs at once."""

    questions: int
    concurrency: int
    timeout: float
    slots: int


@dataclass
class Report:
    """A row of the table; ``findings`` is empty where all went well. Seconds are those of the questions' owners."""

    storm: str
    questions: int = 0
    full: int = 0
    degraded: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    seconds: float = 0.0
    storm_seconds: float = 0.0
    p50: float = 0.0
    p95: float = 0.0
    longest: float = 0.0
    calls: dict[str, int] = field(default_factory=dict)
    retried: int = 0
    sent_again: int = 0
    full_again: float = 0.0
    slots: int = 0
    findings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


class Trial:
    """Ask in a storm, then look."""

    _next_question = 0

    def __init__(self, storm: Storm, here: Installation, demands: Demands) -> None:
        self._storm = storm
        self._here = here
        self._demands = demands
        self.report = Report(storm.name, questions=demands.questions)

    def run(self) -> Report:
        """All of it; what goes wrong is a finding."""
        try:
            asked = self._asked_in_storm()
            self._count(asked)
            self._judge(asked)
            self.report.findings += audit.findings(self._here, asked, self._demands.timeout)
            self._full_again()
            self._slots_again()
        except AssertionError as error:
            self.report.findings.append(str(error))
        except Exception as error:
            self.report.findings.append(f"the trial itself broke: {type(error).__name__}: {error}")
        self.report.findings = list(_alike_together(self.report.findings))
        return self.report

    def _asked_in_storm(self) -> list[Asked]:
        demands = self._demands
        weather = Weather(self._storm, self._here.services)
        crowd = Crowd(
            self._here.client,
            first=self._numbers(demands.questions),
            questions=demands.questions,
            concurrency=demands.concurrency,
            timeout=demands.timeout,
        )
        begun = time.monotonic()
        try:
            weather.act(0.0)
            crowd.begin()
            while not crowd.over:
                weather.act(crowd.share)
                time.sleep(_TICK)
        finally:
            weather.calm()
        self.report.seconds = round(time.monotonic() - begun, 1)
        self.report.storm_seconds = round(weather.lasted, 1)
        if not weather.came:
            self.report.findings.append("there was no storm")
        return crowd.asked()

    def _count(self, asked: Sequence[Asked]) -> None:
        report = self.report
        report.full = sum(one.is_full for one in asked)
        report.degraded = dict(Counter("+".join(one.modes) for one in asked if one.modes))
        report.failed = dict(Counter(one.error for one in asked if one.error))
        report.refused = sum(one.refused for one in asked)
        seconds = sorted(one.seconds for one in asked)
        report.p50, report.p95 = (round(seconds[int((len(seconds) - 1) * share)], 2) for share in (0.5, 0.95))
        report.longest = round(seconds[-1], 2)
        report.calls = self._here.services.standin.counters()["calls"]
        ids = [one.id for one in asked if one.id]
        of_these = "WHERE question_id = ANY(CAST(:ids AS uuid[]))"
        row = audit.rows(
            self._here, f"SELECT count(*) FILTER (WHERE attempt > 1) AS n FROM stage_timings {of_these}", ids=ids
        )[0]
        report.retried = row["n"]
        again = "SELECT coalesce(sum(epoch), 0) AS n FROM questions WHERE id = ANY(CAST(:ids AS uuid[]))"
        report.sent_again = int(audit.rows(self._here, again, ids=ids)[0]["n"])

    def _judge(self, asked: Sequence[Asked]) -> None:
        answered = sum(one.answer is not None for one in asked)
        if answered < LEAST_ANSWERED * len(asked) and not self._storm.may_fail:
            self.report.findings.append(f"only {answered} of {len(asked)} were answered: {self._messages(asked)}")
        seen = {mode for one in asked for mode in one.modes}
        if self._storm.modes and not seen & self._storm.modes:
            self.report.findings.append(f"nobody was answered {' or '.join(sorted(self._storm.modes))}")
        vain = self.report.calls.get("chat closed", 0)
        if vain > self._storm.most_vain * len(asked):
            self.report.findings.append(f"{vain} answers were asked for and given up")

    @staticmethod
    def _messages(asked: Sequence[Asked]) -> str:
        common = Counter(f"{one.error}: {one.message}" for one in asked if one.error).most_common(3)
        return "; ".join(f"{count} × {message}" for message, count in common)

    def _full_again(self) -> None:
        """Without anybody's doing answers are full again, several in a row, and every breaker is closed."""
        begun, in_a_row = time.monotonic(), 0
        self._here.services.standin.reset()
        while in_a_row < _FULL_IN_A_ROW:
            one = ask(self._here.client, self._numbers(1), self._demands.timeout)
            in_a_row = in_a_row + 1 if one.is_full else 0
            if time.monotonic() - begun > _FULL_WITHIN:
                raise AssertionError(f"answers are not full again: {one.modes} {one.error} {one.message}")
        self.report.full_again = round(time.monotonic() - begun, 2)
        states = {one.service + " " + one.model: one.breaker for one in self._here.parts.upstreams.report()}
        not_closed = {name: state for name, state in states.items() if state != "closed"}
        if not_closed:
            self.report.findings.append(f"circuit breakers are not closed: {not_closed}")

    def _slots_again(self) -> None:
        """More questions than slots, at a model that doesn't answer: each worker has as many at it as it has slots."""
        standin, slots = self._here.services.standin, self._demands.slots * len(self._here.askers)
        standin.reset()
        standin.configure(first_token=600.0)
        # A worker takes twice as many messages as it has slots, so that another one may have the fewer.
        count = slots + 2 * self._demands.slots
        first = self._numbers(count)
        asked = [self._here.client.question(question_about(first + n), kb="storms", timeout=120) for n in range(count)]
        with ThreadPoolExecutor(20) as pool:
            list(pool.map(self._here.client.submit, asked))
            try:
                seen = standin.wait_for(lambda seen: seen["streams_open"] >= slots, _SLOTS_FULL_WITHIN)
            except AssertionError:
                seen = standin.counters()
                self.report.findings.append(f"of {slots} slots only {seen['streams_open']} are at work")
            self.report.slots = seen["streams_open"]
            list(pool.map(self._here.client.cancel, [question.id for question in asked]))
        standin.wait_for(lambda seen: seen["in_flight"] == 0, _SLOTS_FULL_WITHIN)
        audit.wait_until_idle(self._here)
        standin.configure(**CALM)

    @classmethod
    def _numbers(cls, count: int) -> int:
        """The first of so many numbers of questions that nobody has asked."""
        first = cls._next_question
        cls._next_question += count
        return first


def _alike_together(findings: Sequence[str]) -> Iterator[str]:
    """One line for all that differ in the question alone."""
    alike: dict[str, list[str]] = {}
    for finding in findings:
        alike.setdefault(_ID.sub("…", finding), []).append(finding)
    for those in alike.values():
        yield those[0] if len(those) == 1 else f"{len(those)} times, as in: {those[0]}"
