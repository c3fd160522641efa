"""The Flax sampler: rollouts in this process, and whether a sampler's log-probabilities are those of training."""
