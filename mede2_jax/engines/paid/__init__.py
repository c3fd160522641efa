"""APIs that answer for money: a cache, a budget, single flight of equal requests, and one file for each protocol."""
