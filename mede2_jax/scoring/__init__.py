"""How replies to benchmarks are read: each owner's rule as his code has it, and ours. Text alone, and nothing is ever guessed."""
