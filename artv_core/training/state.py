"""The saved state that lets a run continue as if it had never stopped. It is written beside its place and then renamed,
so it is complete or absent.

Weights, averages and the optimiser's state go through torch.distributed.checkpoint: each process writes its part,
sharded or not, and a different number of processes can read it. Only what is trained is written. Unlike a checkpoint, a
state is partly a pickle, so only load states of your own runs.
"""

import random
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
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

from ..files.partial_file import can_flush, reason
from ..speed.device_limits import is_out_of_memory
from .ema import MovingAverage

# Not strict, because frozen weights are not in the state. Reading still checks that everything else is there and fits.
_TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)


_FAILURES = (CheckpointException, RuntimeError, ValueError, OSError, KeyError)
"""What can go wrong while a state is written or read."""


class RunState:
    """Everything that changes while a stage is trained, in `folder/state-STEP`.

    The position in the data is the step itself. Randomness is keyed by (seed, step, sample), so the saved states of the
    global generators matter only to code that draws from them by mistake.
    """

    def __init__(
        self, folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, average: MovingAverage, scaler: Any
    ) -> None:
        self.folder, self.module, self.optimizer = folder, module, optimizer
        self.average, self.scaler = average, scaler

    def save(self, step: int) -> None:
        """Write the state after `step` steps, then remove the one before. Every process must call this.

        Raises ValueError if it cannot be written, such as on a full disk; the state before it is kept.
        """
        partial = self.folder / "state.partial"
        try:
            self._write(partial, self._path(step))
        except _FAILURES as error:
            shutil.rmtree(partial, ignore_errors=True)
            steps = saved_steps(self.folder)
            kept = f"{self._path(steps[-1])} is kept" if steps else "no state was saved yet"
            raise ValueError(f"cannot write a state in {self.folder}: {reason(_cause(error))}; {kept}") from None

    def _write(self, partial: Path, target: Path) -> None:
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
        """Load the last state and return its step; 0 if there is none. Every process must call this.

        Raises ValueError for a state of another configuration or an earlier version, and for one that cannot be read.
        """
        steps = saved_steps(self.folder)
        if not steps:
            return 0
        path, tensors = self._path(steps[-1]), self._tensors()
        try:
            with _single_process_is_meant():
                dcp.load(tensors, checkpoint_id=path)
        except _FAILURES as error:
            cause = _cause(error)
            if isinstance(cause, OSError) or is_out_of_memory(cause):
                raise ValueError(f"cannot read {path}: {reason(cause)}; the state is kept") from None
            advice = "give the run another name, or remove that folder to start again"
            raise ValueError(f"{path} does not fit this configuration: {advice} ({reason(cause)})") from None
        set_model_state_dict(self.module, tensors["module"], options=_TRAINED)
        decays = [group["weight_decay"] for group in self.optimizer.param_groups]
        set_optimizer_state_dict(self.module, self.optimizer, tensors["optimizer"], options=_TRAINED)
        for group, decay in zip(self.optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay  # the configuration's, which may have changed
        if self.scaler is not None:
            self.scaler.load_state_dict(tensors["scaler"])
        generators = path / f"generators-{_rank()}.pt"
        if generators.exists():  # missing if there are more processes than before
            _set_generators(_read_generators(generators))
        return steps[-1]

    def numbers(self) -> Iterator[Tensor]:
        """All tensors that must be finite: trained weights, their averages, the optimiser's state."""
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
            if self._path(step) != target:  # a folder that a network drive refuses to delete does no harm
                shutil.rmtree(self._path(step), ignore_errors=True)


def saved_steps(folder: Path) -> list[int]:
    """The steps after which states were saved, ascending. Only folders named as by `state_name` count, so a user's copy
    under another name is ignored."""
    found = [re.fullmatch(r"state-([0-9]+)", path.name) for path in folder.glob("state-*") if path.is_dir()]
    return sorted(int(match[1]) for match in found if match and match[0] == state_name(int(match[1])))


def state_name(step: int) -> str:
    """The name of the folder with the state after `step` steps."""
    return f"state-{step:08d}"


def _cause(error: Any) -> Any:
    """The error of one process, if `error` is the exception that collects those of all. The system's error, if there is
    one behind it: torch.save hides a full disk behind one about positions in its file."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    behind = error
    while behind is not None and not isinstance(behind, OSError):
        behind = behind.__context__
    return behind or error


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _wait() -> None:
    if dist.is_initialized():
        dist.barrier()


class _single_process_is_meant(warnings.catch_warnings):  # noqa: N801
    """Silences the warning of torch.distributed.checkpoint about saving from a single process."""

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


def _read_generators(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, weights_only=True)
    except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
        raise ValueError(f"cannot read {path}: {reason(error)}; remove it, and the run goes on") from None


def _set_generators(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss_next = state["python"]
    random.setstate((version, tuple(numbers), gauss_next))
