"""The stage "diffusion" of a configuration with weights sharded by `fully_shard`, as Accelerate does it on GPUs:
`torchrun --nproc_per_node 2 training_sharded.py CONFIG OUTPUT`. Everything else is the loop as it is."""

import sys

from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.optim import Optimizer

from artv_core.models.attention import FeedForward, SelfAttention
from artv_core.models.unet import ResBlock
from artv_core.training import loop
from artv_core.training.config import read_config
from artv_core.training.optimizers import make_optimizer
from artv_core.training.processes import make_shardable
from artv_core.training.run import run

CONFIG = read_config(sys.argv[1])


def prepare(accelerator: Accelerator, module: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
    """The layers that `configs/accelerate/fsdp.yaml` names, one by one, and the rest together."""
    make_shardable(module, optimizer)
    for part in module.modules():
        if isinstance(part, (ResBlock, SelfAttention, FeedForward)):
            fully_shard(part)
    fully_shard(module)
    return module, make_optimizer(module, CONFIG.diffusion)


if __name__ == "__main__":
    loop.prepare = prepare
    run(CONFIG, sys.argv[2], ["diffusion"], resume="--resume" in sys.argv)
