"""Stage ``transform``: a question that follows others, made one that stands alone.

A store of passages knows no conversation, so what a follow-up leaves out or points back to must be said before it is
embedded and looked for. This is question rewriting (Elgohary et al., "Can You Unpack That? Learning to Rewrite
Questions-in-Context", EMNLP 2019), here by a prompted model, which is also known as condensing the question. What is
answered are the person's own words.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline import losses, prompts
from pipeline.cancelling import Abort
from pipeline.errors import RequestRejected
from pipeline.followups import carried_over
from pipeline.injection import find_injections
from pipeline.seams import GenerationRequest, Generator, closing
from pipeline.types import AskState, Exchange, Usage

MOST_CHARS = 1000
"""A longer rewriting, beyond twice the question itself, is something else than a question."""


def transform(
    state: AskState,
    *,
    earlier: Sequence[Exchange],
    generator: Generator | None,
    timeout: float,
    abort: Abort | None = None,
) -> AskState:
    """Set what the question means by itself, from the turns before it, oldest first; by a rule without a generator.

    What the model wrote instead of a question is not used: then the rule is, and the state says so; a question that
    wants no lesser answer raises RequestRejected.
    """
    if not earlier:
        return state
    question = state.question.text
    if generator is None:
        return _with(state, carried_over(question, earlier))
    written, usage = _rewritten(state, earlier, generator, timeout, abort or Abort())
    state = state.but(spent=state.spent.plus(usage))
    if fault := _fault(written, question):
        if state.question.options.strict:
            losses.current().add(usage)
            raise RequestRejected(f"The question could not be rewritten: {fault}.", "Ask it in full.")
        state = state.without("no_rewrite", "transform", f"What the model wrote can't be used: {fault}.")
        return _with(state, carried_over(question, earlier))
    return _with(state, written)


def _with(state: AskState, standalone: str) -> AskState:
    if standalone == state.question.text:
        return state
    return state.but(standalone=standalone, flags=state.flags + find_injections(standalone, "rewritten question"))


def _rewritten(
    state: AskState, earlier: Sequence[Exchange], generator: Generator, timeout: float, abort: Abort
) -> tuple[str, Usage]:
    question = state.question
    messages = prompts.condense(question.text, earlier)
    request = GenerationRequest(question=question.text, passages=(), messages=messages, model=question.options.model)
    pieces: list[str] = []
    usage = Usage()
    with closing(generator.stream(request, timeout=timeout, abort=abort)) as deltas:
        for delta in deltas:
            pieces.append(delta.text)
            usage = delta.usage or usage
    return " ".join("".join(pieces).split()).strip('"“”«» '), usage


def _fault(written: str, question: str) -> str:
    """Why this is no question to look for; '' if it is."""
    if not any(map(str.isalnum, written)):
        return "it is empty"
    if len(written) > max(MOST_CHARS, 2 * len(question)):
        return f"it has {len(written):,} characters"
    return "" if written.isprintable() else "it holds characters that can't be seen"
