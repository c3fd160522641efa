"""What all attention implementations have in common."""

MASKED = -1e30
"""The score of a key that a query does not see: finite, so that nothing of a fully masked block is not a number."""
SAVED = "attention"
"""The name under which rematerialisation policies may keep an implementation's output and normaliser."""
