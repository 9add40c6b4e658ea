"""Stage ``generate``: from passages to an answer with citations."""

from __future__ import annotations

from pipeline import citations, prompts
from pipeline.injection import find_injections
from pipeline.retrieve.reading import PassageTexts, read
from pipeline.seams import AnswerSink, AnswerWriter, GenerationRequest, Generator
from pipeline.types import Answer, AskState, Flag, Passage, Usage


def generate(
    state: AskState,
    *,
    generator: Generator,
    texts: PassageTexts,
    sink: AnswerSink,
    timeout: float,
    attempt: int = 1,
) -> AskState:
    """Write the answer, piece by piece, to ``sink``. Without a passage no model is called."""
    passages = _with_text(state, texts)
    writer = sink.open(state.question.id, attempt)
    if not passages:
        writer.write(prompts.NOT_FOUND_TEXT)
        writer.close()
        return state.but(answer=_not_found(state))
    text, usage = _written(generator, _request(state, passages), writer, timeout)
    return state.but(answer=_answer(state, generator, passages, text, usage))


def _with_text(state: AskState, texts: PassageTexts) -> tuple[Passage, ...]:
    # A passage whose document was replaced since `enrich` is gone, and its number with it.
    if state.kb is None:
        return ()
    return read(state.passages, state.kb.id, texts=texts, parents=state.question.options.parents)


def _request(state: AskState, passages: tuple[Passage, ...]) -> GenerationRequest:
    options = state.question.options
    return GenerationRequest(
        question=state.question.text,
        passages=passages,
        messages=prompts.render(state.question.text, passages),
        model=options.model,
        reasoning_effort=options.reasoning_effort,
        verbosity=options.verbosity,
    )


def _written(
    generator: Generator, request: GenerationRequest, writer: AnswerWriter, timeout: float
) -> tuple[str, Usage]:
    pieces: list[str] = []
    usage = Usage()
    for delta in generator.stream(request, timeout=timeout):
        if delta.text:
            pieces.append(delta.text)
            writer.write(delta.text)
        usage = delta.usage or usage
    writer.close()
    return "".join(pieces), usage


def _answer(state: AskState, generator: Generator, passages: tuple[Passage, ...], written: str, usage: Usage) -> Answer:
    checked = citations.check(written, passages)
    suspicious = [flag for n, p in enumerate(passages, start=1) for flag in find_injections(p.text, f"passage {n}")]
    refused = prompts.says_not_found(checked.text)
    return Answer(
        question_id=state.question.id,
        outcome="not_in_knowledge_base" if refused else "answered",
        mode=generator.mode,
        text=checked.text,
        citations=checked.citations,
        passages=tuple(passage.model_copy(update={"text": ""}) for passage in passages),
        flags=state.flags + tuple(suspicious) + _citation_flags(checked, refused),
        degraded=state.degraded,
        usage=usage.model_copy(update={"embedding_tokens": state.embedding_tokens}),
    )


def _citation_flags(checked: citations.Checked, refused: bool) -> tuple[Flag, ...]:
    unknown = tuple(Flag(rule="unknown-citation", where="answer", excerpt=marker) for marker in checked.removed)
    if checked.citations or refused:
        return unknown
    return (*unknown, Flag(rule="no-citation", where="answer", excerpt=checked.text[:80]))


def _not_found(state: AskState) -> Answer:
    return Answer(
        question_id=state.question.id,
        outcome="not_in_knowledge_base",
        mode="none",
        text=prompts.NOT_FOUND_TEXT,
        flags=state.flags,
        degraded=state.degraded,
        usage=Usage(embedding_tokens=state.embedding_tokens, cost_usd=0.0),
    )
