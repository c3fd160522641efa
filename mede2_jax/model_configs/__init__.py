"""What each family's config.json says, read without JAX: the model, the weight table and vLLM's loader all need it."""
