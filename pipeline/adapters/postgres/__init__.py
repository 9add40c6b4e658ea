"""Postgres, the truth: knowledge bases, documents, runs, questions."""
