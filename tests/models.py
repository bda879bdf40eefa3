"""Models that several test files need."""

import torch
from torch import nn

from artv_core.config import preset
from artv_core.models.artv import ARTV


def untrained(seed: int = 0) -> ARTV:
    """A tiny model whose zero-initialised layers hold small numbers, so that every condition matters."""
    torch.manual_seed(seed)
    model = ARTV(preset("tiny")).eval().requires_grad_(False)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    model.update_null_context()
    return model
