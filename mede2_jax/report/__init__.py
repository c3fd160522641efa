"""Scores, and the runs behind them, as a folder that opens from disk: tables, figures, and every item with what was said to it."""
