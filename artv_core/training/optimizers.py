"""Optimisers by name, and the learning rate schedule."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .config import LoopConfig


def make_optimizer(module: nn.Module, config: LoopConfig, fused: bool = False) -> torch.optim.Optimizer:
    """The optimiser that the configuration names, over all parameters that require gradients. Norms, biases and
    embeddings get no weight decay. "muon" uses Muon for the matrices and kernels inside the networks, and AdamW for the
    rest: embeddings, norms, biases, and the first and last layers of a network, whose inputs or outputs are not
    features. `fused` runs AdamW in a few kernels for all weights, which must then be on their device already. Raises
    ValueError if an optimiser is not installed."""
    decayed, plain = _by_decay(module)
    adamw = {"lr": config.learning_rate, "weight_decay": 0.0}
    if config.optimizer != "muon":
        groups = [{"params": decayed, **adamw, "weight_decay": config.weight_decay}, {"params": plain, **adamw}]
        groups = [group for group in groups if group["params"]]
        return (
            torch.optim.AdamW(groups, fused=fused or None) if config.optimizer == "adamw" else _adamw_of_8_bits(groups)
        )
    from pytorch_optimizer import Muon

    inner = _inner_layers(module)
    hidden = [p for p in decayed if id(p) in inner]
    rest = [p for p in decayed if id(p) not in inner] + plain
    muon = {"lr": config.muon_learning_rate, "weight_decay": config.weight_decay, "use_adjusted_lr": True}
    groups = [{"params": hidden, **muon, "use_muon": True}, {"params": rest, **adamw, "use_muon": False}]
    return Muon(groups)


def learning_rate_factor(step: int, config: LoopConfig) -> float:
    """The factor on the learning rate at `step`: linear warm-up, constant, linear decay to 0."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    left = (config.steps - step) / config.decay_steps if config.decay_steps else 1.0
    return min(warm, left, 1.0)


def set_learning_rate(optimizer: torch.optim.Optimizer, rates: Sequence[float], step: int, config: LoopConfig) -> None:
    """Set the rate of every group at `step`, from its full rate in `rates`. It depends only on the configuration and
    the step, not on a saved state."""
    factor = learning_rate_factor(step, config)
    for group, full in zip(optimizer.param_groups, rates, strict=True):
        rate = full * factor
        if isinstance(group["lr"], Tensor):  # a compiled step would be compiled again for each new number
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _adamw_of_8_bits(groups: list[dict]) -> torch.optim.Optimizer:
    try:
        from torchao.optim import AdamW8bit
    except ImportError:
        raise ValueError('optimizer "adamw8bit" needs the package torchao: pip install torchao') from None
    return AdamW8bit(groups)


def _by_decay(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters with and without weight decay. All matrices and kernels have it, except embeddings."""
    embeddings = {id(p) for layer in module.modules() if isinstance(layer, nn.Embedding) for p in layer.parameters()}
    parameters = [p for p in module.parameters() if p.requires_grad]
    plain = [p for p in parameters if p.ndim < 2 or id(p) in embeddings]
    return [p for p in parameters if p.ndim >= 2 and id(p) not in embeddings], plain


def _inner_layers(module: nn.Module) -> set[int]:
    """Ids of the weights of linear and convolution layers with at least 16 inputs and 16 outputs."""
    layers = [layer for layer in module.modules() if isinstance(layer, (nn.Linear, nn.Conv2d, nn.MultiheadAttention))]
    weights = [p for layer in layers for p in layer.parameters(recurse=False)]
    return {id(p) for p in weights if p.ndim >= 2 and min(p.shape[:2]) >= 16}
