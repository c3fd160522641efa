"""Training steps compiled for machines nobody has to own: do they fit, and what bounds them."""
