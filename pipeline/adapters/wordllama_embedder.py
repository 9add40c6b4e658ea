"""Embeddings without a network: wordllama, whose weights lie inside its wheel.

A text's vector is the mean of its tokens' vectors, at unit length. Pooling is done here, text by text: the
library's own pads every batch to its longest text, and one long text then costs hundreds of megabytes.
"""

from __future__ import annotations

import logging
import threading
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.adapters.llama_tokens import token_ids
from pipeline.errors import BadSettings
from pipeline.seams import EmbeddedPart, Embeddings
from pipeline.settings import OFFLINE_EMBEDDER
from pipeline.types import Vector

if TYPE_CHECKING:
    from wordllama import WordLlamaInference

DIMENSIONS = 256

MAX_CHARS = 32_000
"""Characters of a text that count: as many as the largest chunk has, and some 15 ms of work."""

PART_TEXTS = 512

# Embedding is pure computing: in a gevent worker nothing else runs meanwhile, so it gives way this often. Not with a
# sleep of 0: gevent then runs what is ready, but neither timers nor sockets.
_GIVE_WAY_AFTER = 0.005
_GIVE_WAY_FOR = 0.00001

_IMPORT_LOCK = threading.Lock()


class WordllamaEmbedder:
    """The offline :class:`pipeline.seams.Embedder`. The model (33 MB, 0.4 s) is loaded with the first text."""

    model = OFFLINE_EMBEDDER
    dimensions = DIMENSIONS

    def __init__(self) -> None:
        """Loads nothing yet."""
        self._lock = threading.Lock()
        self._loaded: WordLlamaInference | None = None

    def embed(self, texts: Sequence[str], *, timeout: float) -> Embeddings:
        """Vectors of shape (256,). ``timeout`` is not needed: nothing leaves the process. No tokens are billed.

        A text without a token (an empty one) gets a vector of its own that is like no other in particular.
        """
        model = self._model()
        return Embeddings(vectors=tuple(_vector(model, text) for text in _giving_way(texts)))

    def embed_parts(self, texts: Sequence[str], *, timeout: float) -> Iterator[EmbeddedPart]:
        """Vectors of shape (256,), some hundred at a time."""
        for first in range(0, len(texts), PART_TEXTS):
            found = self.embed(texts[first : first + PART_TEXTS], timeout=timeout)
            yield EmbeddedPart(first=first, vectors=found.vectors)

    def _model(self) -> WordLlamaInference:
        if self._loaded is None:
            with self._lock:
                if self._loaded is None:
                    self._loaded = _load()
        return self._loaded


def _load() -> WordLlamaInference:
    with _IMPORT_LOCK, _root_logger_kept():
        import wordllama
    try:
        # The default folder is another one, and what isn't found there would be downloaded.
        return wordllama.WordLlama.load(
            cache_dir=Path(wordllama.__file__).parent, dim=DIMENSIONS, disable_download=True
        )
    except FileNotFoundError as error:
        raise BadSettings(
            "The weights of wordllama are missing from its package.", "Reinstall the package `wordllama`."
        ) from error


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Importing wordllama configures the root logger; that is not for a library to decide."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _giving_way(texts: Sequence[str]) -> Iterator[str]:
    since = time.perf_counter()
    for text in texts:
        yield text
        if time.perf_counter() - since > _GIVE_WAY_AFTER:
            time.sleep(_GIVE_WAY_FOR)
            since = time.perf_counter()


def _vector(model: WordLlamaInference, text: str) -> Vector:
    # Not by the model's own method: its batches run on threads of the tokenizer, which don't survive a fork.
    tokens = token_ids(_normalised(text))
    mean = model.embedding[tokens].mean(axis=0) if tokens else np.zeros(DIMENSIONS, np.float32)
    length = float(np.linalg.norm(mean))
    if length == 0.0:
        return np.full(DIMENSIONS, DIMENSIONS**-0.5, np.float32)
    return np.asarray(mean / length, dtype=np.float32)


def _normalised(text: str) -> str:
    """Cut, composed (NFC), without lone surrogates, and lines in capitals alone in lower case.

    The model hardly knows words in capitals: with questions in capitals nDCG@10 of xquad_en falls from .91 to .37,
    lowered they reach .91. Lowering everything costs more than it gains (anthropic_docs_rag .58 to .52). A single
    word in capitals is left alone, since it is likely an abbreviation.
    """
    composed = unicodedata.normalize("NFC", text[:MAX_CHARS])
    lines = composed.encode("utf-8", "replace").decode("utf-8").split("\n")
    return "\n".join(line.lower() if line.isupper() and len(line.split()) > 1 else line for line in lines)
