"""Tiny random checkpoints: what each family's files say, and the shapes of its tensors."""
