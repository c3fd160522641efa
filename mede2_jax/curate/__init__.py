"""From a bank to questions worth training on: named steps, each of which says what it left out, and why."""
