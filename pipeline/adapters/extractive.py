"""Answers without a model: the sentences of the passages that answer best, word for word, each with its citation.

A sentence is good when it holds the rare words of the question, means something close to it, comes from a passage
that retrieval ranks high, and is prose. Deterministic: the same request gives the same answer.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.cancelling import Abort
from pipeline.prompts import NOT_FOUND_TEXT
from pipeline.seams import Delta, Embedder, GenerationRequest
from pipeline.sentences import sentences
from pipeline.settings import OFFLINE_GENERATOR
from pipeline.terms import terms
from pipeline.types import AnswerMode, Passage, Usage

Scores = NDArray[np.float64]  # one for each candidate sentence

MAX_SENTENCES = 3

MAX_CANDIDATES = 400
"""Sentences looked at; some 10 ms of work. Passages come best first, so the rest is the least likely."""

# Weights of the parts of a score. With the gold paragraph among five, the answer to .89 of xquad_en's questions is in
# the two best sentences, for any weights near these.
_COVERAGE, _MEANING, _RANK = 1.0, 0.5, 0.3

# A word of the question in the heading above a sentence counts as this much of one in the sentence.
_HEADING = 0.4

# A further sentence must be this good beside the best one.
_WORTH_SAYING = 0.6

# Coverage and meaning together below which even the best sentence is no answer. Of questions whose answer was there
# it refuses .002 (xquad_en) and .007 (scifact), of questions to a collection about other things .60 to .84.
_EVIDENCE = 0.45

# Quality of titles, rows of tables and the like: they may head an answer, but add nothing to one.
_SCRAP = 0.5

# Share of the shorter sentence's terms in the other, above which one of the two says nothing more.
_SAME = 0.8

_MARKUP = (
    (re.compile(r"!?\[([^\[\]\n]{0,300})\]\([^()\s]{0,500}\)"), r"\1"),  # links and images: their text
    (re.compile(r"\[\^?\d{1,4}(?:\s?[,;–-]\s?\d{1,4}){0,8}\]|【[^【】]{0,40}】"), ""),  # the source's own
    (re.compile(r"^\s*(?:#{1,6}\s+|>\s*|[-*+•]\s+|\d{1,3}[.)]\s+)+"), ""),
    (re.compile(r"(\*{1,2})(?=\S)([^*\n]{1,300})(?<=\S)\1"), r"\2"),  # emphasis, but not *args
    (re.compile(r"\s+"), " "),
)
_FENCE = re.compile(r"\s*(?:```|~~~)")
_NOT_PROSE = re.compile(r"\s*(?:#{1,6}\s|\||```|~~~|[-=_*]{3,}\s*$)")
_BACK_REFERENCE = re.compile(r"(?:it|its|he|she|they|this|these|those|his|her|their|such)\b", re.IGNORECASE)
_LAST_STOP = re.compile(r"[.!?…。！？]+$")
_QUOTED_STOP = re.compile(r"[.!?…。！？][\"'”’»)」』]+$")


@dataclass(frozen=True, slots=True)
class _Sentence:
    number: int  # of its passage, from 1
    position: int  # within its passage
    text: str
    terms: frozenset[str]
    heading: frozenset[str]  # terms of what stands above it: section, heading, or a question it may answer
    quality: float  # 1 for prose, less for what reads badly as an answer


class ExtractiveGenerator:
    """The offline :class:`pipeline.seams.Generator`; it obeys no prompt and asks no service."""

    mode: AnswerMode = "extractive"

    def __init__(self, embedder: Embedder) -> None:
        """``embedder`` compares meanings; it sees every candidate sentence, so it should be a local one."""
        self._embedder = embedder

    def stream(self, request: GenerationRequest, *, timeout: float, abort: Abort | None = None) -> Iterator[Delta]:
        """One to three sentences, one a piece, or the fixed text where no passage speaks of what is asked. ``abort``
        is looked at before each.
        """
        abort = abort or Abort()
        abort.check()
        chosen = self._choose(request, timeout)
        for place, sentence in enumerate(chosen):
            abort.check()
            yield Delta(text=(" " if place else "") + _cited(sentence))
        abort.check()
        if not chosen:
            yield Delta(text=NOT_FOUND_TEXT)
        yield Delta(usage=Usage(model=OFFLINE_GENERATOR, cost_usd=0.0))

    def _choose(self, request: GenerationRequest, timeout: float) -> list[_Sentence]:
        candidates = _candidates(request.passages)
        if not candidates:
            return []
        texts = [request.question, *(sentence.text for sentence in candidates)]
        vectors = np.stack(self._embedder.embed(texts, timeout=timeout).vectors)
        meaning = vectors[1:] @ vectors[0]
        coverage = _coverage(terms(request.question), candidates)
        if (coverage + meaning).max() < _EVIDENCE:
            return []
        quality = np.array([sentence.quality for sentence in candidates])
        scores = quality * (_COVERAGE * coverage + _MEANING * meaning + _RANK * _ranks(request.passages, candidates))
        return _pick(candidates, scores)


def _candidates(passages: Sequence[Passage]) -> list[_Sentence]:
    found: list[_Sentence] = []
    for number, passage in enumerate(passages, start=1):
        found.extend(_sentences_of(number, passage))
        if len(found) >= MAX_CANDIDATES:
            break
    return found[:MAX_CANDIDATES]


def _sentences_of(number: int, passage: Passage) -> Iterator[_Sentence]:
    section = heading = terms(passage.section)
    in_code = False
    for position, (start, end) in enumerate(sentences(passage.text)):
        raw = passage.text[start:end]
        in_code ^= _FENCE.match(raw) is not None
        text = _plain(raw)
        quality = 0.3 if in_code else _quality(raw, text)
        if not text:
            continue
        own = terms(text)
        yield _Sentence(number, position, text, own, heading, quality)
        if quality <= _SCRAP and not in_code:
            heading = section | own


def _plain(raw: str) -> str:
    for pattern, replacement in _MARKUP:
        raw = pattern.sub(replacement, raw)
    return raw.strip(" |")


def _quality(raw: str, text: str) -> float:
    if _NOT_PROSE.match(raw):
        return 0.3
    if text.endswith(("?", "？")):
        return 0.4
    letters = sum(map(str.isalpha, text))
    if letters < 0.6 * len(text):
        return _SCRAP
    if text.endswith(":"):
        return 0.6
    finished = _LAST_STOP.search(text) or _QUOTED_STOP.search(text)
    is_title = not finished and len(text) < 60
    return _SCRAP if is_title else 1.0


def _coverage(asked: frozenset[str], candidates: Sequence[_Sentence]) -> Scores:
    """Share of the question's terms that each sentence holds, weighted by their rarity among the sentences.

    The weight is the idf of BM25 (Robertson and Zaragoza 2009), with sentences as documents.
    """
    holding = Counter(term for sentence in candidates for term in asked & sentence.terms)
    total = len(candidates)
    idf = {term: math.log1p((total - holding[term] + 0.5) / (holding[term] + 0.5)) for term in asked}
    whole = sum(idf.values()) or 1.0

    def covered(sentence: _Sentence) -> float:
        own = sum(idf[term] for term in sorted(asked & sentence.terms))
        above = sum(idf[term] for term in sorted((asked & sentence.heading) - sentence.terms))
        return (own + _HEADING * above) / whole

    return np.array([covered(sentence) for sentence in candidates])


def _ranks(passages: Sequence[Passage], candidates: Sequence[_Sentence]) -> Scores:
    """What retrieval thinks of each sentence's passage, in [0, 1]; by rank alone where scores say nothing."""
    best = max(passage.score for passage in passages)
    by_number = [passage.score / best if best > 0 else 1.0 / number for number, passage in enumerate(passages, start=1)]
    return np.array([by_number[sentence.number - 1] for sentence in candidates])


def _pick(candidates: Sequence[_Sentence], scores: Scores) -> list[_Sentence]:
    """The best sentences that don't repeat one another, in reading order: passages by their best sentence."""
    order = np.argsort(-scores, kind="stable")
    best, floor = candidates[order[0]], _WORTH_SAYING * scores[order[0]]
    picked: list[_Sentence] = []
    for index in order:
        if len(picked) >= MAX_SENTENCES or scores[index] < floor:
            break
        sentence = candidates[index]
        is_scrap = sentence.quality <= _SCRAP < best.quality
        if is_scrap or any(_repeats(sentence, earlier) for earlier in picked):
            continue
        before = candidates[index - 1] if index else None
        if before and before not in picked and len(picked) < MAX_SENTENCES - 1 and _leans_on(sentence, before):
            picked.append(before)
        picked.append(sentence)
    return _in_reading_order(picked)


def _repeats(sentence: _Sentence, earlier: _Sentence) -> bool:
    shorter = min(len(sentence.terms), len(earlier.terms))
    return sentence.text == earlier.text or len(sentence.terms & earlier.terms) > _SAME * shorter


def _leans_on(sentence: _Sentence, before: _Sentence) -> bool:
    """Whether it begins with a word for something that the sentence before it names."""
    adjacent = before.number == sentence.number and before.position == sentence.position - 1
    return adjacent and before.quality == 1.0 and _BACK_REFERENCE.match(sentence.text) is not None


def _in_reading_order(picked: Sequence[_Sentence]) -> list[_Sentence]:
    first_named = {sentence.number: place for place, sentence in reversed(list(enumerate(picked)))}
    return sorted(picked, key=lambda sentence: (first_named[sentence.number], sentence.position))


def _cited(sentence: _Sentence) -> str:
    """The sentence with its marker before the full stop, where a reader can't take it for the next sentence's."""
    text, marker = sentence.text, f"[{sentence.number}]"
    stop = _LAST_STOP.search(text)
    if stop:
        return f"{text[: stop.start()].rstrip()} {marker}{stop[0]}"
    if _QUOTED_STOP.search(text):
        return f"{text} {marker}"
    return f"{text.rstrip(' ,;:')} {marker}."
