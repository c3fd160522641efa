"""What a training step holds and computes, what examples may be made up for it, and what devices can do."""
