"""MedE² in JAX: teach a vision-language model medical reasoning by SFT, then DPO."""

__version__ = "0.1.0"
