"""Data: from JSONL and image files to batches of fixed shapes (NumPy only)."""
