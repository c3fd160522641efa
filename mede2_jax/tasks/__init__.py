"""Benchmarks as their owners have them, one file each; nothing else asks which one it is."""
