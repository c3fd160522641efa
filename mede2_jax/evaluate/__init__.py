"""A model's scores on benchmarks: their items asked as their owners ask, sampled as `rollout` does, read as `score` does."""
