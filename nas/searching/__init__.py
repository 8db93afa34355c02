"""The search engine: algorithms, their common parts, the record, and what is measured of a super-network."""
