"""Finding evidence: transform, embed, search, enrich, rerank."""
