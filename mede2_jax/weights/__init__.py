"""Weights: between Hugging Face checkpoints, PEFT adapters and model directories."""
