"""Bulk ingest through an embedding service that refuses, fails and hangs: complete, and hardly a call in vain.

The full scenario, with its figures, is ``python -m tests.benchmarks.faults``.
"""

from __future__ import annotations

from pathlib import Path

from tests import failing_service
from tests.acceptance.live_stack import LiveStack
from tests.standin.fixture import StandInProcess

DOCUMENTS = 4000


def test_an_ingest_ends_complete_and_pays_for_hardly_a_text_twice(
    served: LiveStack, standin: StandInProcess, tmp_path: Path
) -> None:
    corpus = failing_service.write_documents(tmp_path / "corpus.jsonl", DOCUMENTS)
    # As after a minute without a call. (A service that begins to refuse in the midst of full requests refuses each of
    # them once; tests before this one leave the gate open.)
    served.forget_refusals()
    # A few hundred requests are too few for dice: with 12 % in vain 1.14 is the least, and one in a hundred is much.
    faults = failing_service.phases(4, retry_after=1, evenly=True)
    standin.configure(embedding_latency=0.05, faults=faults)

    outcome = served.cli("ingest", corpus, "--kb", "failing-embedder", "--json")

    assert (outcome.json["indexed"], outcome.json["failed"]) == (DOCUMENTS, 0)
    seen = standin.counters()
    assert {"embeddings 429", "embeddings 500", "embeddings closed"} <= set(seen["calls"])
    assert seen["texts"] == DOCUMENTS  # no text was embedded twice
    assert failing_service.calls_per_text(standin, DOCUMENTS) <= 1.2
