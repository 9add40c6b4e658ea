"""Stage ``generate``: from passages to an answer with citations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipeline import citations, losses, prompts
from pipeline.cancelling import Abort
from pipeline.injection import find_injections
from pipeline.retrieve.reading import PassageTexts, read
from pipeline.seams import AnswerSink, AnswerWriter, Delta, GenerationRequest, Generator, closing
from pipeline.types import Answer, AskState, Exchange, Flag, Passage, Usage


def generate(
    state: AskState,
    *,
    generator: Generator,
    texts: PassageTexts,
    sink: AnswerSink,
    timeout: float,
    attempt: int = 1,
    earlier: Sequence[Exchange] = (),
    abort: Abort | None = None,
) -> AskState:
    """Write the answer, piece by piece, to ``sink``. Without a passage no model is called. ``earlier`` are the turns
    that the question follows, oldest first. Raises Cancelled as soon as ``abort`` is triggered.
    """
    abort = abort or Abort()
    passages = _with_text(state, texts)
    abort.check()
    writer = sink.open(state.question.id, attempt)
    if not passages:
        writer.write(prompts.NOT_FOUND_TEXT)
        writer.flush()
        return state.but(answer=_not_found(state))
    text, last = _written(generator, _request(state, passages, earlier), writer, timeout, abort)
    with _paid_for(last):
        writer.flush()
        return state.but(answer=_answer(state, generator, passages, text, last))


def _with_text(state: AskState, texts: PassageTexts) -> tuple[Passage, ...]:
    # A passage whose document was replaced since `enrich` is gone, and its number with it.
    if state.kb is None:
        return ()
    return read(state.passages, state.kb.id, texts=texts, parents=state.question.options.parents)


def _request(state: AskState, passages: tuple[Passage, ...], earlier: Sequence[Exchange]) -> GenerationRequest:
    options = state.question.options
    return GenerationRequest(
        question=state.search_text,
        passages=passages,
        messages=prompts.render(
            state.question.text,
            passages,
            brief=any(d.mode == "brief" for d in state.degraded),
            earlier=earlier,
            standalone=state.standalone,
        ),
        model=options.model,
        reasoning_effort=options.reasoning_effort,
        verbosity=options.verbosity,
    )


def _written(
    generator: Generator, request: GenerationRequest, writer: AnswerWriter, timeout: float, abort: Abort
) -> tuple[str, Delta]:
    """The whole text, its end not told yet, and the last piece."""
    pieces: list[str] = []
    delta = Delta()
    with closing(generator.stream(request, timeout=timeout, abort=abort)) as deltas:
        for delta in deltas:
            if delta.text:
                pieces.append(delta.text)
                writer.write(delta.text)
            elif delta.usage is None:
                writer.flush()
    return "".join(pieces), delta


@contextmanager
def _paid_for(last: Delta) -> Iterator[None]:
    """What is done inside, with an answer that is complete, may fail; it is paid for all the same."""
    try:
        yield
    except BaseException:
        losses.current().add(last.usage or Usage(cost_usd=0.0))
        raise


def _answer(state: AskState, generator: Generator, passages: tuple[Passage, ...], written: str, last: Delta) -> Answer:
    checked = citations.check(written, passages)
    suspicious = [flag for n, p in enumerate(passages, start=1) for flag in find_injections(p.text, f"passage {n}")]
    refused = prompts.says_not_found(checked.text)
    return Answer(
        question_id=state.question.id,
        outcome="not_in_knowledge_base" if refused else "answered",
        mode=generator.mode,
        text=checked.text,
        standalone=state.standalone,
        citations=checked.citations,
        passages=tuple(passage.model_copy(update={"text": ""}) for passage in passages),
        flags=state.flags + tuple(suspicious) + _citation_flags(checked, refused) + _cut_off_flag(checked, last),
        degraded=state.degraded,
        usage=(last.usage or Usage()).plus(state.spent),
    )


def _citation_flags(checked: citations.Checked, refused: bool) -> tuple[Flag, ...]:
    unknown = tuple(Flag(rule="unknown-citation", where="answer", excerpt=marker) for marker in checked.removed)
    if checked.citations or refused:
        return unknown
    return (*unknown, Flag(rule="no-citation", where="answer", excerpt=checked.text[:80]))


def _cut_off_flag(checked: citations.Checked, last: Delta) -> tuple[Flag, ...]:
    return (Flag(rule="cut-off", where="answer", excerpt=checked.text[-80:]),) if last.cut_off else ()


def _not_found(state: AskState) -> Answer:
    return Answer(
        question_id=state.question.id,
        outcome="not_in_knowledge_base",
        mode="none",
        text=prompts.NOT_FOUND_TEXT,
        standalone=state.standalone,
        flags=state.flags,
        degraded=state.degraded,
        usage=state.spent,
    )
