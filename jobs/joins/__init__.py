"""Joins of catalogues: by id, by position, counts, HATS."""
