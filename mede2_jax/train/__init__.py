"""Training: one pure step, two losses, exact resume."""
