"""Three levels of what was found and answered before: this process, Redis, Postgres.

A question is given what the same question was given before, as long as nothing that shapes it has changed: its key says
that of words, options and settings, the revision of the knowledge base says it of everything that can be found. Both
are part of every address, so that nothing has ever to be taken out. No level is asked where a nearer one knows.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import structlog
from pydantic import TypeAdapter, ValidationError

from pipeline.caching.flights import SHARED, Claim, Flights, Follower, Standing
from pipeline.caching.keys import KeyMaker, Keys
from pipeline.caching.memory import Memory
from pipeline.errors import CeleriacError, NotFound
from pipeline.settings import Settings
from pipeline.types import (
    Answer,
    AskOptions,
    AskState,
    CachedResult,
    CacheNote,
    KnowledgeBase,
    Passage,
    Question,
    Usage,
)

_log = structlog.get_logger(__name__)

RESULTS: tuple[CachedResult, ...] = ("answer", "retrieval", "vector")
"""What is kept, the most useful first."""
LEVELS = ("memory", "redis", "postgres")
MISS = "miss"
_MOST_WAITING = 2000
_AFTER_THE_END = 10.0
"""Seconds after a question's time for which it is known who follows it."""
_Values = Mapping[CachedResult, bytes | None]
_Passages: TypeAdapter[tuple[Passage, ...]] = TypeAdapter(tuple[Passage, ...])


class Stored(NamedTuple):
    """What Postgres has for the keys of a question. ``answer`` is the id of a question with a fresh answer, ``earlier``
    of one with any full answer; ``retrieval`` and ``vector`` are the bytes that :class:`Caches` keeps of them.
    """

    answer: str = ""
    earlier: str = ""
    retrieval: bytes | None = None
    vector: bytes | None = None


class NewVector(NamedTuple):
    """A vector to be kept: the space it lies in, its key, float32 as little-endian bytes in base64."""

    space: str
    key: str
    vector: bytes


class Catalogue(Protocol):
    """Knowledge bases, found together with what is stored for a question."""

    def find_with(self, tenant: str, name: str, keys: Keys, *, ttl: float) -> tuple[KnowledgeBase, Stored]:
        """Both in one statement; raises NotFound."""


class Ledger(Protocol):
    """Answers on record."""

    def answer(self, question_id: str) -> Answer | None:
        """The answer of a question."""


class Vectors(Protocol):
    """Vectors of questions."""

    def save(self, vectors: Sequence[NewVector]) -> None:
        """Keep them; those already there stay."""


class Shared(Protocol):
    """The level between: what all processes see at once. It never raises, and forgets where it can't be reached."""

    def get(self, addresses: Sequence[str]) -> list[bytes | None]:
        """Values, in order."""

    def put(self, values: Mapping[str, bytes]) -> None:
        """Keep values for the time to live."""

    def count(self, counts: Mapping[str, int]) -> None:
        """Add to what was counted in this hour."""


class Found(NamedTuple):
    """The best that is kept for a question, and at which level that was. ``value`` is an answer that names the question
    it was given to, the passages, or the packed vector.
    """

    result: CachedResult
    level: str
    value: Answer | tuple[Passage, ...] | str


class Best(NamedTuple):
    """What a question is given, and whether it is answered together with others."""

    found: Found | None = None
    standing: Standing = Standing()


class Caches:
    """The caches as one process sees them; safe to share between threads."""

    def __init__(
        self,
        settings: Settings,
        *,
        catalogue: Catalogue,
        ledger: Ledger,
        vectors: Vectors,
        shared: Shared | None,
        flights: Flights | None,
    ) -> None:
        """Without ``shared`` and ``flights`` the process keeps to itself and Postgres."""
        self._settings = settings
        self._maker = KeyMaker(settings)
        self._memory = Memory(settings.cache_memory_mb * 1_000_000, settings.cache_ttl)
        self._catalogue = catalogue
        self._ledger = ledger
        self._vectors = vectors
        self._shared = shared if settings.cache_ttl > 0 else None
        self._flights = flights
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._waiting: deque[tuple[str, NewVector]] = deque(maxlen=_MOST_WAITING)

    def serve(self, question: Question) -> bool:
        """Whether this question may be given what another one was. A replay is asked to see what comes of it now, and
        what a follow-up means is not in its words.
        """
        asked = question.options.cache
        own = question.replay is not None or question.follows_up
        return not own and (self._settings.cache if asked is None else asked)

    def lookup(self, question: Question) -> Lookup:
        """What finds the knowledge base of this question, and then what is kept for it."""
        return Lookup(self, self._maker.keys(question), question.options)

    # ------------------------------------------------------------------ reading

    def find_kb(self, tenant: str, name: str, keys: Keys) -> tuple[KnowledgeBase, Stored]:
        """The knowledge base, and what Postgres has for these keys."""
        return self._catalogue.find_with(tenant, name, keys, ttl=self._settings.cache_stored_ttl)

    def best(self, kb: KnowledgeBase, keys: Keys, stored: Stored, claim: Claim | None = None) -> Best:
        """The most useful result that is kept, from the nearest level that has it. Where that is no answer, the
        question with a ``claim`` comes to lead those that ask the same, or follows the one that does.
        """
        addresses = _addresses(kb, keys)
        near = {result: self._memory.get(addresses[result]) for result in RESULTS}
        far, standing = self._from_redis(addresses, near, stored, claim)
        if standing.follows:
            self._count([f"answer:{SHARED}"])
            return Best(standing=standing)
        found: Found | None = None
        counts: list[str] = []
        for result, level, value in self._kept(near, far, stored):
            if value is not None and (decoded := _decoded(result, value)) is not None:
                found = Found(result, level, decoded)
                counts.append(f"{result}:{level}")
                if level != LEVELS[0]:
                    self._put({addresses[result]: value}, shared=level == LEVELS[-1])
                break
            if level == LEVELS[-1]:
                counts.append(f"{result}:{MISS}")
        self._count(counts)
        return Best(found, standing)

    def _from_redis(
        self, addresses: Mapping[CachedResult, str], near: _Values, stored: Stored, claim: Claim | None
    ) -> tuple[_Values, Standing]:
        """What Redis has, asked at most once, and not where the answer is known."""
        if self._shared is None or near["answer"] is not None:
            return {}, Standing()
        wanted, standing = [addresses[result] for result in RESULTS], Standing()
        if claim is None or self._flights is None or stored.answer:
            values = self._shared.get(wanted)
        else:
            values, standing = self._flights.look(wanted, claim)
        return dict(zip(RESULTS, values, strict=True)), standing

    def _kept(self, near: _Values, far: _Values, stored: Stored) -> Iterator[tuple[CachedResult, str, bytes | None]]:
        """Result by result, level by level."""
        for result in RESULTS:
            yield result, "memory", near[result]
            yield result, "redis", far.get(result)
            yield result, "postgres", self._stored(result, stored)

    def _count(self, counts: Sequence[str]) -> None:
        with self._lock:
            self._counts.update(counts)

    def _stored(self, result: CachedResult, stored: Stored) -> bytes | None:
        if result == "answer":
            answer = self._answer(stored.answer)
            return None if answer is None else _kept(answer)
        return stored.retrieval if result == "retrieval" else stored.vector

    def _answer(self, question_id: str) -> Answer | None:
        try:
            return self._ledger.answer(question_id) if question_id else None
        except NotFound:  # deleted since its id was looked up
            return None

    # ------------------------------------------------------------------ writing

    def keep(self, state: AskState, answer: Answer) -> list[Follower]:
        """Keep what has come of a question, for the next one that is the same; returns those that wait for it."""
        note, kb = state.cache, state.kb
        if note is None or kb is None:
            return []
        values = _worth_keeping(state, note, kb, answer)
        if not note.leads or self._flights is None:
            self._put(values)
            return []
        self._put(values, shared=False)
        return self._flights.land(answer.question_id, values, self._settings.cache_ttl)

    def keep_vector(self, kb: KnowledgeBase, question: Question, vector: str) -> None:
        """Keep the vector of a question. The next :meth:`flush` writes it to Redis and Postgres: nobody waits."""
        key, packed = self._maker.keys(question).vector, vector.encode()
        self._memory.put(_vector_address(kb, key), packed)
        self._waiting.append((_vector_address(kb, key), NewVector(kb.vector_space, key, packed)))

    def flush(self) -> None:
        """Hand on what was counted and embedded since the last time. What can't be is dropped: it is only a cache."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        vectors = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if self._shared is not None:
            if counts:
                self._shared.count(counts)
            if vectors:
                self._shared.put({address: new.vector for address, new in vectors})
        if vectors and self._settings.cache_stored_ttl > 0:
            try:
                self._vectors.save([new for _, new in vectors])
            except CeleriacError as error:
                _log.warning("vectors of questions were not stored", error=str(error))

    def _put(self, values: Mapping[str, bytes], *, shared: bool = True) -> None:
        for address, value in values.items():
            self._memory.put(address, value)
        if values and shared and self._shared is not None:
            self._shared.put(values)


class Lookup:
    """One question and the caches. It is the catalogue that ``guard`` finds the knowledge base in."""

    def __init__(self, caches: Caches, keys: Keys, options: AskOptions) -> None:
        """Made by :meth:`Caches.lookup`."""
        self._options = options
        self._caches = caches
        self._keys = keys
        self._stored = Stored()

    def find(self, tenant: str, name: str) -> KnowledgeBase:
        """The knowledge base of that name as it is now; raises NotFound."""
        kb, self._stored = self._caches.find_kb(tenant, name, self._keys)
        return kb

    def note(self, standing: Standing) -> CacheNote:
        """What the question is to remember."""
        return CacheNote(
            retrieval=self._keys.retrieval,
            answer=self._keys.answer,
            earlier=self._stored.earlier,
            leads=standing.leads,
            follows=standing.follows,
        )

    def best(self, kb: KnowledgeBase, joining: Follower | None = None) -> Best:
        """See :meth:`Caches.best`; ``joining`` is the question as one that may follow another."""
        if joining is None:
            return self._caches.best(kb, self._keys, self._stored)
        # Who takes no lesser answer would fail where another one gets it, and who waits must not wait for bulk work.
        manner = f"{'strict' if self._options.strict else 'any'}:{'bulk' if self._options.bulk else 'awaited'}"
        flight = f"{_address('answer', kb, self._keys.answer)}:{manner}"
        claim = Claim(flight, joining, ttl=joining.deadline - joining.since + _AFTER_THE_END)
        return self._caches.best(kb, self._keys, self._stored, claim)


def is_full(answer: Answer) -> bool:
    """Whether nothing is amiss with an answer. What is suspicious in a question or a passage is so each time."""
    return not answer.degraded and not any(flag.where == "answer" for flag in answer.flags)


def is_well_retrieved(state: AskState) -> bool:
    """Whether the passages are those that are found when all services are well."""
    return all(loss.stage == "generate" for loss in state.degraded)


def for_others(answer: Answer) -> Answer:
    """An answer as it is given to other questions: what it took was paid and recorded once."""
    return answer.model_copy(update={"timings": (), "usage": Usage(model=answer.usage.model, cost_usd=0.0)})


def _worth_keeping(state: AskState, note: CacheNote, kb: KnowledgeBase, answer: Answer) -> dict[str, bytes]:
    values: dict[str, bytes] = {}
    if note.taken != "answer" and is_full(answer):
        values[_address("answer", kb, note.answer)] = _kept(answer)
    if note.taken not in ("answer", "retrieval") and is_well_retrieved(state):
        passages = _Passages.dump_json(state.passages, exclude_defaults=True)
        values[_address("retrieval", kb, note.retrieval)] = passages
    return values


def _kept(answer: Answer) -> bytes:
    return for_others(answer).model_dump_json(exclude_defaults=True).encode()


def _decoded(result: CachedResult, value: bytes) -> Answer | tuple[Passage, ...] | str | None:
    try:
        if result == "answer":
            return Answer.model_validate_json(value)
        return _Passages.validate_json(value) if result == "retrieval" else value.decode("ascii")
    except (ValidationError, UnicodeDecodeError):  # of another version of Celeriac
        return None


def _addresses(kb: KnowledgeBase, keys: Keys) -> dict[CachedResult, str]:
    return {
        "answer": _address("answer", kb, keys.answer),
        "retrieval": _address("retrieval", kb, keys.retrieval),
        "vector": _vector_address(kb, keys.vector),
    }


def _address(result: CachedResult, kb: KnowledgeBase, key: str) -> str:
    return f"{result}:{kb.id}:{kb.revision}:{key}"


def _vector_address(kb: KnowledgeBase, key: str) -> str:
    return f"vector:{kb.vector_space}:{key}"
