"""Judging rollouts by MMRP: the stage between sampling and pairing."""
