"""Equal questions at the same time are answered once.

The first one **leads**: its stages run. The others **follow**: their stages end after ``guard``, their readers are sent
to the leader's stream, and whatever the leader comes to is theirs as well. A question follows only one that ends before
its own time does, is as strict, and is awaited by somebody if it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from pipeline.types import Answer, StageTiming, Value


class Follower(Value):
    """A question that waits for another one's answer, since ``since`` (Unix seconds). ``guard`` is its time there."""

    question_id: str
    epoch: int
    deadline: float
    since: float
    guard: StageTiming


class Claim(NamedTuple):
    """A question that would lead the flight, or follow in it. ``ttl`` is how many seconds that is worth noting."""

    flight: str
    follower: Follower
    ttl: float

    @property
    def deadline(self) -> float:
        """When the question's time is over."""
        return self.follower.deadline


class Standing(NamedTuple):
    """Whether a question leads; ``leader`` is whom it follows, or itself. Neither: it is on its own."""

    leads: bool = False
    leader: str = ""

    @property
    def follows(self) -> str:
        """Whom it follows, if it does."""
        return "" if self.leads else self.leader


class Flights(Protocol):
    """Who leads and who follows. Where it can't be reached no question follows."""

    def look(self, addresses: Sequence[str], claim: Claim) -> tuple[list[bytes | None], Standing]:
        """What is kept at these addresses, the first of which is the answer's; where that isn't there the question
        becomes one that leads or follows, in the same step.
        """

    def land(self, question_id: str, values: Mapping[str, bytes], ttl: float) -> list[Follower]:
        """Those who follow this question, which leads no more; each is given out once. In the same step ``values`` are
        kept at their addresses for ``ttl`` seconds.
        """

    def leaders(self, question_ids: Sequence[str]) -> dict[str, str]:
        """Of these questions those that follow another one, and which one."""


def as_followed(follower: Follower, answer: Answer, now: float, worker: str) -> Answer:
    """The leader's answer as that of a follower."""
    waited = StageTiming(stage="generate", run_ms=(now - follower.since) * 1000, cached=SHARED)
    timings = (follower.guard, waited, StageTiming(stage="record", worker=worker))
    return answer.model_copy(update={"question_id": follower.question_id, "timings": timings})


SHARED = "shared"
"""What is said of an answer that was made for several questions at once, in the place of a level."""
