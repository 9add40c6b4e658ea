"""The collection that holds the chunks of all knowledge bases of one embedding model."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from weaviate import WeaviateClient
from weaviate.classes.config import (
    Configure,
    DataType,
    Property,
    StopwordsPreset,
    Tokenization,
    VectorDistances,
)
from weaviate.collections.classes.config import CollectionConfig
from weaviate.exceptions import UnexpectedStatusCodeError

from pipeline.adapters.weaviate.errors import failure
from pipeline.errors import RequestRejected
from pipeline.types import IndexRef

KEYWORDS: Final = "keywords"
DOCUMENT_ID: Final = "document_id"
GENERATION: Final = "generation"


def collection_name(index: IndexRef) -> str:
    """``Celeriac_<Model>_<dimensions>_<hash>``; the hash tells apart models whose names differ in signs only."""
    slug = "".join(part[:1].upper() + part[1:] for part in re.findall(r"[0-9A-Za-z]+", index.model))
    digest = hashlib.sha256(f"{index.model}\n{index.dimensions}".encode()).hexdigest()[:8]
    return f"Celeriac_{slug[:100]}_{index.dimensions}_{digest}"


def ensure_collection(client: WeaviateClient, index: IndexRef) -> None:
    """Create the collection of ``index``'s model unless it exists. Many workers may do this at once.

    Raises RequestRejected where a collection of that name is not ours: without multi-tenancy, the mark of
    those that Weaviate's auto-schema makes from a write to a collection that someone has just deleted.
    """
    name = collection_name(index)
    if not client.collections.exists(name):
        _create(client, name, index)
    if not client.collections.use(name).config.get().multi_tenancy_config.enabled:
        hint = f"Delete {name} in Weaviate and ingest again."
        raise failure(RequestRejected, f"collection {name} exists and has no multi-tenancy", hint)


def deviations(client: WeaviateClient, index: IndexRef) -> list[str]:
    """Where the collection of ``index``'s model is not as :func:`ensure_collection` makes it; none where there is none.
    Scores of such a collection mean something else.
    """
    name = collection_name(index)
    if not client.collections.exists(name):
        return []
    config = client.collections.use(name).config.get()
    found = [] if config.multi_tenancy_config.enabled else [f"collection {name} has no multi-tenancy"]
    if not any(p.name == KEYWORDS and p.tokenization == Tokenization.WORD for p in config.properties):
        found.append(f"collection {name} does not split its {KEYWORDS} into words")
    if _distance(config) != VectorDistances.COSINE:
        found.append(f"collection {name} does not compare vectors by cosine")
    return found


def _distance(config: CollectionConfig) -> object:
    named = (config.vector_config or {}).get("default")
    vector_index = named.vector_index_config if named else config.vector_index_config
    return getattr(vector_index, "distance_metric", None)


def _create(client: WeaviateClient, name: str, index: IndexRef) -> None:
    try:
        client.collections.create(
            name,
            description=f"Chunks embedded by {index.model} ({index.dimensions}); a tenant is a knowledge base.",
            multi_tenancy_config=Configure.multi_tenancy(
                enabled=True, auto_tenant_creation=True, auto_tenant_activation=True
            ),
            vector_config=Configure.Vectors.self_provided(
                vector_index_config=Configure.VectorIndex.hnsw(distance_metric=VectorDistances.COSINE)
            ),
            inverted_index_config=Configure.inverted_index(
                bm25_b=0.75, bm25_k1=1.2, stopwords_preset=StopwordsPreset.EN
            ),
            properties=_properties(),
        )
    except UnexpectedStatusCodeError:
        # Another worker was quicker, perhaps.
        if not client.collections.exists(name):
            raise


def _properties() -> list[Property]:
    return [
        Property(
            name=KEYWORDS,
            data_type=DataType.TEXT,
            tokenization=Tokenization.WORD,
            index_filterable=False,
            index_searchable=True,
        ),
        Property(
            name=DOCUMENT_ID,
            data_type=DataType.TEXT,
            tokenization=Tokenization.FIELD,
            index_filterable=True,
            index_searchable=False,
        ),
        Property(name=GENERATION, data_type=DataType.INT),
    ]
