"""Weaviate as a vector store: one collection per embedding model, one tenant per knowledge base."""

from pipeline.adapters.weaviate.store import WeaviateStore

__all__ = ["WeaviateStore"]
