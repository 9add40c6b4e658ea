"""Finding evidence: embed, search, enrich, rerank."""
