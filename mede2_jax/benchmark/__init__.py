"""Throughput of training: what a step takes, what of it is arithmetic, and whether the data keep up."""
