"""Sampling responses to questions: the stage between the two trainings."""
