"""How the processes of a run work together: Accelerate's setup, gathered weights, and agreement on when to stop."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from ..speed.device_limits import check_training_precision
from .config import DiffusionStage, LoopConfig

PATIENCE = timedelta(hours=2)
"""How long processes wait for one that draws sheets, has more to do, or reads from a slow disk."""


def make_accelerator(config: LoopConfig, folder: Path) -> Accelerator:
    """Accelerate as the stage needs it. Settings of `accelerate launch` (several machines, FSDP) also apply."""
    check_training_precision(config.mixed_precision, PartialState(cpu=not torch.cuda.is_available()).device)
    AcceleratorState._reset_state()  # the stages of a run may differ in precision, but share the processes
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        log_with=["tensorboard", *_wandb(config, folder)],
        project_dir=folder,
        cpu=not torch.cuda.is_available(),
    )
    if config.batch_size % accelerator.num_processes:
        raise ValueError(
            f"batch_size {config.batch_size} cannot be divided among {accelerator.num_processes} processes; make it a "
            f"multiple of {accelerator.num_processes}"
        )
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
    accelerator.init_trackers("tensorboard")
    return accelerator


def _wandb(config: LoopConfig, folder: Path) -> list[Any]:
    if not config.wandb_project:
        return []
    try:
        import wandb  # noqa: F401
    except ImportError:
        raise ValueError("wandb_project needs the package wandb: pip install wandb, or leave it out") from None
    from accelerate.tracking import WandBTracker

    name = f"{folder.parent.name}-{folder.name}"
    return [WandBTracker(config.wandb_project, name=name, dir=str(folder.parent))]


def prepare(
    accelerator: Accelerator, module: nn.Module, optimizer: torch.optim.Optimizer, config: LoopConfig
) -> tuple[nn.Module, Any]:
    """Module and optimiser, distributed over the processes by Accelerate. Raises ValueError if they cannot be
    sharded."""
    if accelerator.distributed_type == "FSDP":
        make_shardable(module, optimizer, config)
    return accelerator.prepare(module, optimizer)


def make_shardable(module: nn.Module, optimizer: torch.optim.Optimizer, config: LoopConfig) -> None:
    """Make the weights contiguous, because FSDP splits them by rows. Raises ValueError for weights of two types, for
    Muon, which needs whole matrices, and for `rollout_share`, which runs the networks outside of the module that
    gathers their weights."""
    dtypes = {parameter.dtype for parameter in module.parameters()}
    if len(dtypes) > 1 or any(group.get("use_muon") for group in optimizer.param_groups):
        raise ValueError("FSDP needs weights of one type and AdamW; use DDP, or train all parts with adamw")
    if isinstance(config, DiffusionStage) and config.rollout_share:
        raise ValueError(f"FSDP needs rollout_share 0, not {config.rollout_share}; use DDP, or error_share instead")
    module.to(memory_format=torch.contiguous_format)


def whole_weights(module: nn.Module) -> dict[str, Tensor] | None:
    """All weights on the CPU if they are sharded (empty except on the main process), else None. All processes must call
    this together."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.tensor import DTensor

    if not any(isinstance(parameter, DTensor) for parameter in module.parameters()):
        return None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, Tensor], get_model_state_dict(module, options=options))


def filled(empty: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """A module on the meta device with these weights; without weights it stays empty."""
    if weights:
        empty.load_state_dict(weights, assign=True)
    return empty


def mean_over_processes(accelerator: Accelerator, logs: Mapping[str, Tensor]) -> dict[str, float]:
    """The means of scalars [] over all processes. Waits for the device."""
    values = torch.stack(list(logs.values()))
    return dict(zip(logs, accelerator.reduce(values, reduction="mean").tolist(), strict=True))


def whole_scalar(value: Tensor) -> Tensor:
    """A scalar [] as a plain tensor, even if it is sharded."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def host_group(accelerator: Accelerator) -> Any:
    """A process group through which the hosts agree in each step without waiting for their devices; None if there is
    one process."""
    return dist.new_group(backend="gloo", timeout=PATIENCE) if accelerator.num_processes > 1 else None


def agreed(group: Any, *flags: bool) -> list[bool]:
    """Each flag is true if it is true in any process, because all must save and stop at the same step."""
    if group is None:
        return list(flags)
    seen = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(seen, dist.ReduceOp.MAX, group=group)
    return [bool(flag) for flag in seen]
