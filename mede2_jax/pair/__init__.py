"""Making preference pairs of judged rollouts: the stage before DPO."""
