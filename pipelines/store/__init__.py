"""Committed artifacts: versions, digests, lineage, cleaning."""
