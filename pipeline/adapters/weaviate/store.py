"""The vector store on Weaviate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar
from uuid import UUID

import numpy as np
from weaviate import WeaviateClient
from weaviate.classes.data import DataObject
from weaviate.classes.query import Filter
from weaviate.collections import Collection
from weaviate.exceptions import WeaviateInsertManyAllFailedError
from weaviate.proto.v1 import base_pb2 as base
from weaviate.proto.v1 import base_search_pb2 as branches
from weaviate.proto.v1 import search_get_pb2 as searching

from pipeline.adapters.weaviate.collection import (
    DOCUMENT_ID,
    GENERATION,
    KEYWORDS,
    collection_name,
    deviations,
    ensure_collection,
)
from pipeline.adapters.weaviate.connection import Connection
from pipeline.adapters.weaviate.errors import UPSTREAM, failure, one_line
from pipeline.adapters.weaviate.words import Stems
from pipeline.errors import ModelMismatch, RequestRejected, ServerFault
from pipeline.seams import StoredEntry
from pipeline.types import Hit, IndexEntry, IndexRef, Vector

INSERT_SLICE: Final = 200
DELETE_SLICE: Final = 1000
PAGE: Final = 1000

_DISTANCE: Final = searching.MetadataRequest(uuid=True, distance=True)
_SCORE: Final = searching.MetadataRequest(uuid=True, score=True)

T = TypeVar("T")


class WeaviateStore:
    """Chunks in Weaviate: the vector branch is HNSW with cosine distance, the keyword branch BM25.

    An index is one tenant of its model's collection. Nothing but ids and scores is read back. The
    client opens at the first call, one per process; a server that went away and came back is found
    again without a restart.
    """

    def __init__(
        self,
        url: str,
        *,
        grpc_url: str | None,
        api_key: str | None,
        connect_timeout: float,
        language: str = "english",
    ) -> None:
        """Addresses as in WEAVIATE_URL and WEAVIATE_GRPC_URL, ``language`` as in CELERIAC_KEYWORD_LANGUAGE; raises
        BadSettings for unusable ones.
        """
        self._stems = Stems(language)
        self._connection = Connection(url, grpc_url=grpc_url, api_key=api_key, connect_timeout=connect_timeout)
        self._ensured: set[str] = set()

    def vector_search(self, index: IndexRef, vector: Vector, limit: int, *, timeout: float) -> list[Hit]:
        """Nearest chunks by HNSW; score is 1 - cosine distance."""
        _check_vector(index, vector, "The question's vector")

        packed = np.asarray(vector, dtype="<f4").tobytes()
        vectors = [base.Vectors(vector_bytes=packed, type=base.Vectors.VECTOR_TYPE_SINGLE_FP32)]
        near = branches.NearVector(vectors=vectors, vector_bytes=packed)  # the latter is for a Weaviate before 1.29
        request = _request(index, limit, near_vector=near, metadata=_DISTANCE)
        found = self._on_tenant(index, timeout, lambda _: self._connection.search(request).results) or ()
        return _best_first([(_similarity(one.metadata.distance), one.metadata) for one in found])

    def keyword_search(self, index: IndexRef, text: str, limit: int, *, timeout: float) -> list[Hit]:
        """Chunks that share a stem with ``text``, by Weaviate's BM25 (b 0.75, k1 1.2, English stop words)."""
        stems = self._stems.of(text)
        if not stems:
            return []

        request = _request(index, limit, bm25_search=branches.BM25(query=stems, properties=[KEYWORDS]), metadata=_SCORE)
        found = self._on_tenant(index, timeout, lambda _: self._connection.search(request).results) or ()
        return _best_first([(one.metadata.score, one.metadata) for one in found if one.metadata.score])

    def upsert(self, index: IndexRef, entries: Sequence[IndexEntry], *, timeout: float) -> None:
        """Write entries in slices; ``timeout`` bounds them together. No vector is written if one is unusable."""
        for entry in entries:
            _check_vector(index, entry.vector, f"The vector of chunk {entry.chunk_id}")
        if not entries:
            return
        with self._connection.call(timeout) as client:
            self._ensure_collection(client, index)
            tenant = _tenant(client, index)
            try:
                for start in range(0, len(entries), INSERT_SLICE):
                    _insert(tenant, [self._object(entry) for entry in entries[start : start + INSERT_SLICE]])
            except ServerFault:
                # Perhaps someone deleted the collection: look again before the next attempt.
                self._ensured.discard(collection_name(index))
                raise

    def delete(self, index: IndexRef, chunk_ids: Sequence[str], *, timeout: float) -> None:
        """Remove chunks in slices; ``timeout`` bounds them together."""

        def remove(tenant: Collection[Any, Any]) -> None:
            for start in range(0, len(chunk_ids), DELETE_SLICE):
                ids = list(chunk_ids[start : start + DELETE_SLICE])
                outcome = tenant.data.delete_many(where=Filter.by_id().contains_any(ids))
                if outcome.failed:
                    raise failure(ServerFault, f"{outcome.failed} of {len(ids)} chunks were not deleted")

        if chunk_ids:
            self._on_tenant(index, timeout, remove)

    def drop(self, index: IndexRef, *, timeout: float) -> None:
        """Remove the knowledge base's tenant; the collection stays for the others."""
        name = collection_name(index)
        with self._connection.call(timeout) as client:
            if client.collections.exists(name):
                client.collections.use(name).tenants.remove([index.kb_id])

    def chunk_ids(self, index: IndexRef, *, timeout: float) -> Iterator[str]:
        """Ids of all chunks, page by page; ``timeout`` bounds each page."""
        after: UUID | None = None
        while page := self._page_of_ids(index, after, timeout):
            yield from map(str, page)
            after = page[-1]

    def check(self, *, timeout: float) -> str:
        """For example ``Weaviate 1.39.2, gRPC ok``. Raises BadSettings for a server older than 1.27."""
        with self._connection.call(timeout) as client:
            version = client.get_meta()["version"]
            self._connection.check_grpc()
        return f"Weaviate {version}, gRPC ok"

    def entries(self, index: IndexRef, *, timeout: float) -> Iterator[StoredEntry]:
        """All entries by id, as Weaviate's cursor gives them; their vectors are looked at on the way."""
        after: UUID | None = None
        while page := self._page_of_entries(index, after, timeout):
            yield from page
            after = UUID(page[-1].chunk_id)

    def faults(self, index: IndexRef, *, timeout: float) -> list[str]:
        """Where the collection is not as Celeriac makes it. Statistics of keywords are Weaviate's own."""
        with self._connection.call(timeout) as client:
            return deviations(client, index)

    def mend(self, index: IndexRef, *, timeout: float) -> None:
        """Nothing: what :meth:`faults` finds can't be changed in a collection that holds objects."""

    def close(self) -> None:
        """Close this process's connections; a later call opens them again."""
        self._connection.close()

    def _on_tenant(self, index: IndexRef, timeout: float, act: Callable[[Collection[Any, Any]], T]) -> T | None:
        """What ``act`` returns, or None where the index isn't there."""
        with self._connection.call(timeout) as client:
            try:
                return act(_tenant(client, index))
            except (ServerFault, RequestRejected):
                # A missing index has no status of its own, so ask; only after a failure, it costs two requests.
                if _exists(client, index):
                    raise
                # The next write has to make it: Weaviate's auto-schema would make another kind of collection.
                self._ensured.discard(collection_name(index))
                return None

    def _page_of_ids(self, index: IndexRef, after: UUID | None, timeout: float) -> list[UUID]:
        def page(tenant: Collection[Any, Any]) -> list[UUID]:
            found = tenant.query.fetch_objects(limit=PAGE, after=after, return_properties=[])
            return [one.uuid for one in found.objects]

        return self._on_tenant(index, timeout, page) or []

    def _page_of_entries(self, index: IndexRef, after: UUID | None, timeout: float) -> list[StoredEntry]:
        def page(tenant: Collection[Any, Any]) -> list[StoredEntry]:
            found = tenant.query.fetch_objects(
                limit=PAGE, after=after, return_properties=[DOCUMENT_ID, GENERATION], include_vector=True
            )
            return [_entry(one.uuid, one.properties, one.vector, index.dimensions) for one in found.objects]

        return self._on_tenant(index, timeout, page) or []

    def _object(self, entry: IndexEntry) -> DataObject[dict[str, Any], None]:
        properties = {
            KEYWORDS: self._stems.of(entry.keywords),
            DOCUMENT_ID: entry.document_id,
            GENERATION: entry.generation,
        }
        return DataObject(uuid=entry.chunk_id, properties=properties, vector=entry.vector.tolist())

    def _ensure_collection(self, client: WeaviateClient, index: IndexRef) -> None:
        name = collection_name(index)
        if name not in self._ensured:
            ensure_collection(client, index)
            self._ensured.add(name)


@lru_cache(maxsize=256)  # the client builds a dozen objects around it, at a tenth of a search's processor time
def _tenant(client: WeaviateClient, index: IndexRef) -> Collection[Any, Any]:
    return client.collections.use(collection_name(index)).with_tenant(index.kb_id)


def _exists(client: WeaviateClient, index: IndexRef) -> bool:
    name = collection_name(index)
    return client.collections.exists(name) and client.collections.use(name).tenants.exists(index.kb_id)


def _entry(uuid: UUID, properties: Mapping[str, Any], vectors: Mapping[str, Any], dimensions: int) -> StoredEntry:
    vector = vectors.get("default")
    broken = "" if vector else "no vector"
    if vector and len(vector) != dimensions:
        broken = f"a vector of {len(vector)} dimensions"
    # Weaviate leaves out a property that was never set.
    return StoredEntry(str(uuid), str(properties.get(DOCUMENT_ID) or ""), int(properties.get(GENERATION) or 0), broken)


def _insert(tenant: Collection[Any, Any], entries: Sequence[DataObject[dict[str, Any], None]]) -> None:
    try:
        outcome = tenant.data.insert_many(entries)
    except WeaviateInsertManyAllFailedError as error:
        cause = one_line(error).partition("all errors: ")[2] or one_line(error)
        raise failure(ServerFault, f"none of {len(entries)} chunks was written: {cause}") from error
    if outcome.has_errors:
        first = next(iter(outcome.errors.values()))
        lost = f"{len(outcome.errors)} of {len(entries)} chunks were not written"
        raise failure(ServerFault, f"{lost}: {first.message}")


def _check_vector(index: IndexRef, vector: Vector, name: str) -> None:
    """Weaviate stores NaN without a word and then finds such chunks at a distance of NaN."""
    if vector.shape != (index.dimensions,):
        shape = "x".join(map(str, vector.shape))
        raise ModelMismatch(f"{name} has {shape} dimensions, the index {index.dimensions}.", "", UPSTREAM)
    if not np.isfinite(vector).all():
        raise RequestRejected(f"{name} holds NaN or infinity.", "The embedding model is at fault.", UPSTREAM)


def _similarity(distance: float | None) -> float:
    return -1.0 if distance is None else max(-1.0, min(1.0 - distance, 1.0))


def _request(index: IndexRef, limit: int, **search: Any) -> searching.SearchRequest:
    """A search that returns ids and what ``metadata`` asks for, but no properties."""
    return searching.SearchRequest(
        collection=collection_name(index),
        tenant=index.kb_id,
        limit=limit,
        properties=searching.PropertiesRequest(),
        uses_123_api=True,
        uses_125_api=True,
        uses_127_api=True,
        **search,
    )


def _best_first(scores: Sequence[tuple[float, searching.MetadataResult]]) -> list[Hit]:
    """Equal scores in the order of their ids, so that an answer can be repeated."""
    found = sorted((-score, one.id or str(UUID(bytes=one.id_as_bytes))) for score, one in scores)
    return [Hit(chunk_id, -below) for below, chunk_id in found]
