"""What a run needs to go on as if it had never stopped: written beside, then renamed, so a state is whole or not there.

Weights, averages and the optimiser's state go through torch.distributed.checkpoint: each process writes what it holds,
sharded or not, and another number of processes can read it. Only what is trained is written. Unlike a checkpoint, a
state is partly a pickle: go on only with runs of your own.
"""

import random
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from ..files.partial_file import can_flush
from .ema import MovingAverage

# Not strict, since what is frozen is not in it; that all else is there and fits is checked as it is read.
_TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)


class RunState:
    """Everything about a stage in training that changes, in `folder/state-STEP`.

    The position in the data is the step itself. Randomness is keyed by (seed, step, sample), so the generators' states,
    which are kept too, matter only to code that draws from them unasked.
    """

    def __init__(
        self, folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, average: MovingAverage, scaler: Any
    ) -> None:
        self.folder, self.module, self.optimizer = folder, module, optimizer
        self.average, self.scaler = average, scaler

    def save(self, step: int) -> None:
        """Write the state after `step` steps; the one before is removed afterwards. Every process must call this."""
        target, partial = self._path(step), self.folder / "state.partial"
        if _rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        _wait()
        with _single_process_is_meant():
            writer = dcp.FileSystemWriter(partial, sync_files=can_flush(self.folder))
            dcp.save(self._tensors(), storage_writer=writer)
        torch.save(_generators(), partial / f"generators-{_rank()}.pt")
        _wait()
        if _rank() == 0:
            self._put_in_place(partial, target)
        _wait()

    def load(self) -> int:
        """Take up the last state there is and return its step; 0 where there is none. Every process must call this.

        Raises ValueError, one line, for a state of another configuration or an earlier version.
        """
        steps = saved_steps(self.folder)
        if not steps:
            return 0
        path, tensors = self._path(steps[-1]), self._tensors()
        try:
            with _single_process_is_meant():
                dcp.load(tensors, checkpoint_id=path)
        except (CheckpointException, RuntimeError, ValueError, OSError, KeyError) as error:
            reason = " ".join(str(error).split())[-200:]
            advice = "give the run another name, or remove that folder to start anew"
            raise ValueError(f"{path} does not fit this configuration: {advice} ({reason})") from None
        set_model_state_dict(self.module, tensors["module"], options=_TRAINED)
        set_optimizer_state_dict(self.module, self.optimizer, tensors["optimizer"], options=_TRAINED)
        if self.scaler is not None:
            self.scaler.load_state_dict(tensors["scaler"])
        generators = path / f"generators-{_rank()}.pt"
        if generators.exists():  # not where there are more processes than before
            _set_generators(torch.load(generators, weights_only=True))
        return steps[-1]

    def numbers(self) -> Iterator[Tensor]:
        """All tensors of which each number matters: weights in training, their averages, the optimiser's state."""
        yield from (parameter for parameter in self.module.parameters() if parameter.requires_grad)
        yield from self.average.averages.values()
        for values in self.optimizer.state.values():
            yield from (value for value in values.values() if isinstance(value, Tensor))

    def _tensors(self) -> dict[str, Any]:
        state = {
            "module": get_model_state_dict(self.module, options=_TRAINED),
            "optimizer": get_optimizer_state_dict(self.module, self.optimizer, options=_TRAINED),
            "average": self.average.averages,
        }
        return state if self.scaler is None else state | {"scaler": self.scaler.state_dict()}

    def _path(self, step: int) -> Path:
        return self.folder / state_name(step)

    def _put_in_place(self, partial: Path, target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        for step in saved_steps(self.folder):
            if self._path(step) != target:  # what a network drive will not let go of is in nobody's way
                shutil.rmtree(self._path(step), ignore_errors=True)


def saved_steps(folder: Path) -> list[int]:
    """The steps after which states were saved, ascending. Only folders called as `state_name` says are states: a copy
    under any other name is its owner's."""
    found = [re.fullmatch(r"state-([0-9]+)", path.name) for path in folder.glob("state-*") if path.is_dir()]
    return sorted(int(match[1]) for match in found if match and match[0] == state_name(int(match[1])))


def state_name(step: int) -> str:
    """Of the folder with the state after `step` steps."""
    return f"state-{step:08d}"


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _wait() -> None:
    if dist.is_initialized():
        dist.barrier()


class _single_process_is_meant(warnings.catch_warnings):  # noqa: N801
    """torch.distributed.checkpoint wonders each time whether one process alone is what was wanted."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        return entered


def _generators() -> dict[str, Any]:
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    version, numbers, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(numbers), gauss_next],
    }


def _set_generators(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss_next = state["python"]
    random.setstate((version, tuple(numbers), gauss_next))
