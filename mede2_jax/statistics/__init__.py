"""Numbers that say how good a model is and how sure that is: intervals, votes, comparisons, printed percentages as counts."""
