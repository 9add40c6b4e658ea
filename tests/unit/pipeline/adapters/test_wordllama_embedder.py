from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.adapters.wordllama_embedder import MAX_CHARS, WordllamaEmbedder
from pipeline.types import Vector


@pytest.fixture(scope="module")
def embedder() -> WordllamaEmbedder:
    return WordllamaEmbedder()


def vector(embedder: WordllamaEmbedder, text: str) -> Vector:
    return embedder.embed([text], timeout=5).vectors[0]


def test_vectors_are_those_of_the_library(embedder: WordllamaEmbedder) -> None:
    import wordllama

    texts = ["A worker takes tasks from a queue.", "Short", "Warteschlange 队列 😀"]
    model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    ours = np.stack(embedder.embed(texts, timeout=5).vectors)
    np.testing.assert_allclose(ours, model.embed(texts, norm=True), atol=1e-6)


def test_a_question_in_capitals_means_what_it_means_in_small_letters(embedder: WordllamaEmbedder) -> None:
    shouted, said = vector(embedder, "HOW DO I RETRY A TASK?"), vector(embedder, "How do I retry a task?")
    assert float(shouted @ said) > 0.9


def test_an_abbreviation_keeps_its_capitals(embedder: WordllamaEmbedder) -> None:
    assert not np.allclose(vector(embedder, "NASA"), vector(embedder, "nasa"))


def test_a_heading_in_capitals_is_lowered_and_the_text_below_is_not(embedder: WordllamaEmbedder) -> None:
    mixed = vector(embedder, "ABOUT THE QUEUES\nThe API of NASA is slow.")
    np.testing.assert_array_equal(mixed, vector(embedder, "about the queues\nThe API of NASA is slow."))


def test_composed_and_decomposed_characters_are_the_same(embedder: WordllamaEmbedder) -> None:
    np.testing.assert_array_equal(vector(embedder, "Müller"), vector(embedder, "Mu\u0308ller"))


def test_a_text_of_five_megabytes_costs_no_more_than_its_beginning(embedder: WordllamaEmbedder) -> None:
    text = "word and another " * 300_000
    begun = time.process_time()
    found = vector(embedder, text)
    assert time.process_time() - begun < 1
    np.testing.assert_array_equal(found, vector(embedder, text[:MAX_CHARS]))


def test_many_threads_may_ask_a_new_embedder_at_once() -> None:
    embedder, found = WordllamaEmbedder(), []
    threads = [threading.Thread(target=lambda: found.append(vector(embedder, "a task"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(np.array_equal(one, found[0]) for one in found)


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)


def test_loading_neither_prints_nor_configures_logging() -> None:
    """The library calls logging.basicConfig when it is imported."""
    done = run(
        "import logging\n"
        "from pipeline.adapters.wordllama_embedder import WordllamaEmbedder\n"
        "WordllamaEmbedder().embed(['x'], timeout=5)\n"
        "root = logging.getLogger()\n"
        "assert (root.handlers, root.level) == ([], logging.WARNING), (root.handlers, root.level)\n"
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_importing_the_adapter_does_not_load_the_model() -> None:
    run(
        "import sys\n"
        "from pipeline.adapters.wordllama_embedder import WordllamaEmbedder\n"
        "WordllamaEmbedder()\n"
        "assert 'wordllama' not in sys.modules\n"
    )


def test_a_child_process_may_embed_after_its_parent_has() -> None:
    """The tokenizer's thread pool does not survive a fork, and warns about it; it is not used."""
    done = run(
        "import os\n"
        "from pipeline.adapters.wordllama_embedder import WordllamaEmbedder\n"
        "embedder = WordllamaEmbedder()\n"
        "embedder.embed(['a task'] * 200, timeout=5)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    embedder.embed(['a task'] * 200, timeout=5)\n"
        "    os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    assert done.stderr == ""


def test_in_a_gevent_worker_others_run_while_many_texts_are_embedded() -> None:
    """A greenlet that wants to run every millisecond does, again and again, during seconds of embedding."""
    done = run(
        "from gevent import monkey; monkey.patch_all()\n"
        "import gevent, json, time\n"
        "from pipeline.adapters.wordllama_embedder import WordllamaEmbedder\n"
        "embedder = WordllamaEmbedder()\n"
        "embedder.embed(['x'], timeout=5)\n"
        "turns, over = [], False\n"
        "def other():\n"
        "    while not over:\n"
        "        turns.append(time.perf_counter())\n"
        "        gevent.sleep(0.001)\n"
        "running = gevent.spawn(other)\n"
        "gevent.sleep(0)\n"
        "embedder.embed(['a task waits in a queue ' * 50] * 1000, timeout=5)\n"
        "over = True\n"
        "running.join()\n"
        "print(json.dumps(len(turns)))\n"
    )
    assert json.loads(done.stdout) > 20
