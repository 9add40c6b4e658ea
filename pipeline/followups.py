"""Questions that follow others: how much of what was said before is read with them, and what they mean by a rule.

The rule is for where no model rewrites them. It is historical query expansion (Lin et al., "Query Reformulation using
Query History for Passage Retrieval in Conversational Search", arXiv:2005.02230) reduced to what needs no index: a
question that is too poor in content, or points back by a pronoun, takes on the content words of the question before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.terms import terms, words
from pipeline.types import Exchange

BYTES_PER_TOKEN = 3

# A question of fewer terms says too little by itself to be looked for; one of so many says enough, and a pronoun in it
# rather points to something that it names itself.
_POOR, _RICH = 2, 5

_MOST_CARRIED = 12

# What points back in English, German, French and Spanish, without words that are articles or conjunctions as well.
_POINTING_BACK = """
it its they them theirs their this these those he him his she her hers former latter
er sie ihn ihm ihr ihre ihren ihrem ihrer sein seine seinen seinem seiner dies diese dieser dieses diesen diesem
davon dafür damit daran darin darauf dazu dort dabei
il elle ils elles lui leur leurs cela ça celui celle ceux celles ce cet cette ces son sa ses
él ella ellos ellas eso esa ese esto esta este esos esas estos estas su sus ahí allí
"""
# "how long did that take", but no "river that flows"; "spoken there", but no "is there".
_THAT = r"(?:did|does|do|is|was|about|after|before|for|from|in|like|of|than|to|with) that"
_THERE = r"(?<!\bis )(?<!\bare )(?<!\bwas )(?<!\bwere )there"
_BACK = re.compile(rf"\b(?:{'|'.join(_POINTING_BACK.split())}|{_THAT}|{_THERE})\b", re.IGNORECASE)


def recent(earlier: Sequence[Exchange], tokens: int) -> tuple[Exchange, ...]:
    """The last of these turns (oldest first) that fit into ``tokens``, estimated, together.

    The answer that goes beyond is cut, and what lies before it is left out; questions are kept as long as they fit.
    """
    left, kept = tokens * BYTES_PER_TOKEN, list[Exchange]()
    for turn in reversed(earlier):
        left -= _size(turn.question)
        if left <= 0:
            break
        answer = _cut(turn.answer, left)
        kept.append(turn.model_copy(update={"answer": answer}))
        left -= _size(answer)
    return tuple(reversed(kept))


def carried_over(question: str, earlier: Sequence[Exchange]) -> str:
    """The question with what it leaves out, in brackets, from the turn before it; as it is where it leaves out nothing.

    What that turn had taken on itself is carried further.
    """
    own = terms(question)
    leaves_out = len(own) < _POOR or (len(own) < _RICH and _BACK.search(question) is not None)
    if not earlier or not leaves_out:
        return question
    before = earlier[-1].standalone or earlier[-1].question
    carried = [word for word in words(before) if not terms(word) & own][-_MOST_CARRIED:]
    return f"{question} ({' '.join(carried)})" if carried else question


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _cut(text: str, size: int) -> str:
    encoded = text.encode("utf-8", "replace")
    return text if len(encoded) <= size else encoded[:size].decode("utf-8", "ignore") + "…"
