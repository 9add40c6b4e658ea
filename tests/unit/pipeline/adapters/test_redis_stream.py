from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
import redis

from pipeline.adapters.redis_stream import AnswerStreams, StreamWriter, make_client
from pipeline.errors import BadSettings, NotFound, Unreachable
from pipeline.types import AnswerEvent

NAMESPACE = f"test-{uuid.uuid4().hex}"
TTL = 120


@pytest.fixture(scope="module")
def client(redis_url: str) -> Iterator[redis.Redis]:
    made = make_client(redis_url, connections=20, connect_timeout=5)
    yield made
    made.close()


@pytest.fixture
def streams(client: redis.Redis) -> AnswerStreams:
    return AnswerStreams(client, namespace=NAMESPACE, ttl=TTL)


@pytest.fixture
def question() -> str:
    return str(uuid.uuid4())


def read_all(streams: AnswerStreams, question: str, position: str = "0") -> list[AnswerEvent]:
    """Until the end of the stream, as a reader does."""
    found: list[AnswerEvent] = []
    while not found or found[-1].kind not in ("done", "error"):
        events = streams.read(question, found[-1].position if found else position, block=5)
        assert events, f"nothing more came after {found}"
        found += events
    return found


def write_all(streams: AnswerStreams, question: str, *pieces: str, attempt: int = 1) -> None:
    writer = streams.open(question, attempt)
    for piece in pieces:
        writer.write(piece)
    writer.flush()


def text_of(events: list[AnswerEvent]) -> str:
    return "".join(event.value for event in events if event.kind == "text")


def test_a_reader_that_comes_when_all_is_over_misses_nothing(streams: AnswerStreams, question: str) -> None:
    """Given a worker that is faster than its reader, the first token is still there: 55 % were lost elsewhere."""
    write_all(streams, question, "Owls ", "hunt ", "at night.")
    streams.append(question, "done")
    events = read_all(streams, question)
    assert [event.kind for event in events] == ["begin", "text", "text", "done"]
    assert events[0].value == 1
    assert text_of(events) == "Owls hunt at night."


def test_a_reader_that_comes_first_hears_each_piece_as_it_is_written(streams: AnswerStreams, question: str) -> None:
    heard: list[AnswerEvent] = []
    first_piece = threading.Event()

    def listen() -> None:
        position = "0"
        while not heard or heard[-1].kind != "done":
            for event in streams.read(question, position, block=5):
                heard.append(event)
                position = event.position
                if event.kind == "text":
                    first_piece.set()

    reader = threading.Thread(target=listen)
    reader.start()
    writer = streams.open(question, 1)
    writer.write("Owls ")
    assert first_piece.wait(5), "the first piece is not held back"
    writer.write("hunt.")
    writer.flush()
    streams.append(question, "done")
    reader.join(timeout=10)
    assert text_of(heard) == "Owls hunt."


def test_two_readers_hear_the_same(streams: AnswerStreams, question: str) -> None:
    write_all(streams, question, *"abcdef")
    streams.append(question, "done")
    assert read_all(streams, question) == read_all(streams, question)


def test_a_reader_goes_on_from_any_position_it_has_seen(streams: AnswerStreams, question: str) -> None:
    for piece in ("one", "two", "three"):
        streams.append(question, "text", piece)
    streams.append(question, "done")
    events = read_all(streams, question)
    for number, event in enumerate(events[:-1], start=1):
        assert read_all(streams, question, event.position) == events[number:]
    assert streams.read(question, events[-1].position, block=0.01) == []


def test_a_piece_that_is_written_while_the_model_pauses_is_read_at_once(streams: AnswerStreams, question: str) -> None:
    writer = streams.open(question, 1)
    for piece in ("one", "two"):
        writer.write(piece)
    writer.flush()
    assert text_of(streams.read(question, "0", block=1)) == "onetwo"


def test_a_stream_that_was_lost_in_mid_answer_is_told_again_and_expires(
    streams: AnswerStreams, question: str, client: redis.Redis
) -> None:
    writer = streams.open(question, 1)
    writer.write("one")
    key = f"{streams._prefix}{question}"
    client.delete(key)
    writer.write("two")
    writer.flush()
    events = streams.read(question, "0", block=1)
    assert [(event.kind, event.value) for event in events] == [("begin", 1), ("text", "onetwo")]
    assert client.ttl(key) > 0


def test_a_second_attempt_says_that_the_first_is_void(streams: AnswerStreams, question: str) -> None:
    write_all(streams, question, "Wrong")
    write_all(streams, question, "Right", attempt=2)
    streams.append(question, "done")
    events = read_all(streams, question)
    assert [event.value for event in events if event.kind == "begin"] == [1, 2]
    second = max(n for n, event in enumerate(events) if event.kind == "begin")
    assert text_of(events[second:]) == "Right"


def test_an_error_is_told_with_all_that_is_known(streams: AnswerStreams, question: str) -> None:
    streams.append(question, "error", NotFound("It isn't there.", "Look elsewhere.").to_json())
    (event,) = read_all(streams, question)
    assert (event.value["code"], event.value["hint"]) == ("NotFound", "Look elsewhere.")


@pytest.mark.parametrize("text", ["", " ", "\n", "Größe 🧨👩‍👩‍👧‍👦", 'quotes " \\ \0', "x" * 100_000, "null", "[1]"])
def test_a_piece_arrives_as_it_was_written(text: str, streams: AnswerStreams, question: str) -> None:
    streams.append(question, "text", text)
    (event,) = streams.read(question, "0", block=1)
    assert event.value == text


def test_many_small_pieces_make_few_entries_and_lose_nothing(streams: AnswerStreams, question: str) -> None:
    pieces = [f"{n} " for n in range(3000)]
    began = time.monotonic()
    write_all(streams, question, *pieces)
    spent = time.monotonic() - began
    streams.append(question, "done")
    events = read_all(streams, question)
    assert text_of(events) == "".join(pieces)
    assert len(events) <= 4 + spent / 0.03 + sum(map(len, pieces)) / 2000


def test_several_streams_are_read_at_once_each_from_its_place(streams: AnswerStreams, question: str) -> None:
    other, quiet = f"{question}-2", f"{question}-3"
    for name in (question, other):
        streams.append(name, "text", "old")
    place = streams.read(question, "0", block=1)[0].position
    streams.append(question, "text", "new")
    found = streams.read_many({question: place, other: "0", quiet: "0"}, block=1)
    assert {name: [event.value for event in events] for name, events in found.items()} == {
        question: ["new"],
        other: ["old"],
    }


def test_a_long_silence_is_nothing_and_takes_as_long_as_asked(streams: AnswerStreams, question: str) -> None:
    began = time.monotonic()
    assert streams.read(question, "0", block=0.05) == []
    assert 0.04 < time.monotonic() - began < 3


def test_a_stream_dies_of_age_and_its_end_renews_it(client: redis.Redis, streams: AnswerStreams, question: str) -> None:
    key = f"{NAMESPACE}:stream:{question}"
    streams.open(question, 1).write("more")
    assert 0 < client.ttl(key) <= TTL
    client.expire(key, 5)
    streams.append(question, "done")
    assert TTL - 5 <= client.ttl(key) <= TTL


def test_an_answer_that_takes_long_renews_its_stream_now_and_then(
    client: redis.Redis, streams: AnswerStreams, question: str
) -> None:
    key = f"{NAMESPACE}:stream:{question}"
    for renew_every, renewed in ((3600.0, False), (0.0, True)):
        writer = StreamWriter(streams, question, 1, renew_every=renew_every)
        writer.flush()
        client.expire(key, 5)
        writer.write("more")
        assert (client.ttl(key) > 5) is renewed


def test_an_endless_answer_does_not_fill_the_memory(client: redis.Redis, streams: AnswerStreams, question: str) -> None:
    with client.pipeline(transaction=False) as pipe:
        for _ in range(11_000):
            pipe.xadd(f"{NAMESPACE}:stream:{question}", {"e": '["text","x"]'})
        pipe.execute()
    streams.append(question, "done")
    assert client.xlen(f"{NAMESPACE}:stream:{question}") < 10_500


def test_two_installations_on_one_server_do_not_meet(
    client: redis.Redis, streams: AnswerStreams, question: str
) -> None:
    write_all(streams, question, "ours")
    assert AnswerStreams(client, namespace=f"{NAMESPACE}-2", ttl=TTL).read(question, "0", block=0.01) == []


def test_a_server_that_is_not_there_is_unreachable(free_port: Callable[[], int], question: str) -> None:
    client = make_client(f"redis://:hunter2@127.0.0.1:{free_port()}/0", connections=2, connect_timeout=1)
    streams = AnswerStreams(client, namespace=NAMESPACE, ttl=TTL)
    for call in (lambda: streams.read(question, "0", block=0.01), lambda: streams.append(question, "done")):
        with pytest.raises(Unreachable, match="Redis can't be reached") as caught:
            call()
        assert caught.value.detail == {"upstream": "redis"}
        assert len(str(caught.value).splitlines()) == 1
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://:hunter2@host", "redis://:hunter2#x@host", "redis://:hunter2@host:port"])
def test_what_is_no_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(BadSettings, match="REDIS_URL") as caught:
        make_client(url, connections=2, connect_timeout=1)
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"
