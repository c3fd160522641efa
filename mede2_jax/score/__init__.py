"""Scores of responses to a benchmark: which are right, by which rule, and how sure one can be."""
