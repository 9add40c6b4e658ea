"""Words as the keyword branch compares them: lower case, without their endings.

Weaviate's BM25 compares words as they stand, so "cells" does not find "cell". What is indexed is ours alone to search
(texts are read from Postgres), so it is stemmed on the way in, and questions likewise. On scifact this lifts nDCG@10
of the branch from .648 to the figure in docs/retrieval.md.
"""

from __future__ import annotations

import re
import threading

import Stemmer

from pipeline.errors import BadSettings

_WORD = re.compile(r"\w+")


class Stems:
    """Texts reduced to stems by a Snowball algorithm; ``simple``, as in Postgres, leaves words as they are."""

    def __init__(self, language: str) -> None:
        """``language`` as in CELERIAC_KEYWORD_LANGUAGE; raises BadSettings where there is no algorithm for it."""
        self._stemmer = None if language == "simple" else _stemmer(language)
        # The library keeps a cache that is not made for several threads.
        self._lock = threading.Lock()

    def of(self, text: str) -> str:
        """The stems of ``text`` in its order, with blanks between them."""
        words = _WORD.findall(text.lower())
        if self._stemmer is None:
            return " ".join(words)
        with self._lock:
            return " ".join(self._stemmer.stemWords(words))


def _stemmer(language: str) -> Stemmer.Stemmer:
    try:
        return Stemmer.Stemmer(language)
    except KeyError:
        known = ", ".join(sorted(Stemmer.algorithms()))
        raise BadSettings(
            f"CELERIAC_KEYWORD_LANGUAGE: there is no stemmer for {language!r}.", f"Known: {known}."
        ) from None
