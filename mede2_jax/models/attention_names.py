"""What all attention implementations have in common."""

MASKED = -1e30
"""The score of a key that a query does not see: finite, so that nothing of a fully masked block is not a number."""
NOBODY = 2**30
"""A key that comes after all keys: the first one that is seen where nobody sees any."""
SAVED = "attention"
"""The name under which rematerialisation policies may keep an implementation's output and normaliser."""
