"""Demonstrations from teachers' responses (paper, section 3.2)."""
