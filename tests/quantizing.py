"""Rounding to 8 bits by torch."""

import torch


def scales_by_torch(kernel, dtype):
    """[O], of a float32 kernel [I, O]."""
    top = torch.tensor(kernel).abs().amax(0)
    return torch.where(top > 0, top / {"int8": 127.0, "float8_e4m3": 448.0}[dtype], 1.0).numpy()


def by_torch(kernel, scale, dtype):
    """[I, O] numbers, as float32, with these scales."""
    ratio = torch.tensor(kernel) / torch.tensor(scale)
    held = torch.round(ratio).to(torch.int8) if dtype == "int8" else ratio.to(torch.float8_e4m3fn)
    return held.float().numpy()
