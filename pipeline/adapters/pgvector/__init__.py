"""Postgres with pgvector as a vector store: HNSW for vectors, true BM25 for keywords."""

from pipeline.adapters.pgvector.store import PgvectorStore

__all__ = ["PgvectorStore"]
