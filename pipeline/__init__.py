"""Retrieval-augmented generation as plain functions: no Celery, no gevent, no driver at import."""
