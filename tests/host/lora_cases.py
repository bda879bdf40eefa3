"""Patches of every kind that the host knows, some of which fit their weight: for `in_process.py`."""

from typing import NamedTuple

import torch
from torch import Tensor

LINEAR, CONV, POINT = (6, 4), (6, 4, 3, 3), (6, 4, 1, 1)


class Case(NamedTuple):
    """Tensors of a LoRA file for the name `w`, by what follows the name, and the shape of the weight."""

    tensors: dict[str, Tensor]
    shape: tuple[int, ...]


def cases() -> dict[str, Case]:
    """By a name that tells the kind."""
    torch.manual_seed(0)
    found = {}
    for name, parts in _SHAPES.items():
        tensors = {key: torch.randn(shape) for key, shape in parts.items()}
        if name.startswith(("boft", "oft")) and "without alpha" not in name:
            tensors["alpha"] = torch.tensor(0.5)
        for shape in (LINEAR, CONV, POINT):
            found[f"{name} on {shape}"] = Case(tensors, shape)
    return found


def _lora(rows: int, columns: int, rank: int = 2, kernel: tuple[int, ...] = ()) -> dict[str, tuple[int, ...]]:
    return {"lora_up.weight": (rows, rank, *(1 for _ in kernel)), "lora_down.weight": (rank, columns, *kernel)}


def _loha(rows: int, columns: int, rank: int = 2) -> dict[str, tuple[int, ...]]:
    return {f"hada_w{n}_{part}": (rows, rank) if part == "a" else (rank, columns) for n in (1, 2) for part in "ab"}


def _tucker(rows: int, columns: int, core: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    cores = {"hada_t1": core, "hada_t2": core}
    return cores | {f"hada_w{n}_{p}": (core[0], rows) if p == "a" else (core[1], columns) for n in (1, 2) for p in "ab"}


def _glora(a1: tuple, a2: tuple, b1: tuple, b2: tuple) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape for name, shape in (("a1", a1), ("a2", a2), ("b1", b1), ("b2", b2))}


_SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "lora": _lora(6, 4),
    "lora of another size": _lora(8, 5),
    "lora of other ranks": {"lora_up.weight": (6, 2), "lora_down.weight": (3, 4)},
    "lora of rank 0": {"lora_up.weight": (6, 0), "lora_down.weight": (0, 4)},
    "lora of one number": {"lora_up.weight": (), "lora_down.weight": (2, 4)},
    "lora with a line for a middle": {
        "lora_up.weight": (6, 2),
        "lora_down.weight": (2,),
        "lora_mid.weight": (2, 2, 3, 3),
    },
    "lora of a kernel": _lora(6, 4, kernel=(3, 3)),
    "lora of a smaller kernel": _lora(6, 4, kernel=(1, 1)),
    "lora, diffusers": {"lora.up.weight": (6, 2), "lora.down.weight": (2, 4)},
    "lora, PEFT": {"lora_B.weight": (6, 2), "lora_A.weight": (2, 4)},
    "lora with a middle": _lora(6, 4, kernel=(1, 1)) | {"lora_mid.weight": (2, 2, 3, 3)},
    "lora with a middle of another rank": _lora(6, 4, kernel=(1, 1)) | {"lora_mid.weight": (3, 3, 3, 3)},
    "dora": _lora(6, 4) | {"dora_scale": (6, 1)},
    "dora of columns": _lora(6, 4) | {"dora_scale": (1, 4)},
    "dora of one number": _lora(6, 4) | {"dora_scale": ()},
    "dora of another size": _lora(6, 4) | {"dora_scale": (9, 1)},
    "loha": _loha(6, 4),
    "loha of another size": _loha(7, 9),
    "loha of a kernel": _loha(6, 36),
    "loha, tucker": _tucker(6, 4, (2, 2, 3, 3)),
    "loha, tucker, of another size": _tucker(7, 4, (2, 2, 3, 3)),
    "lokr": {"lokr_w1": (2, 2), "lokr_w2": (3, 2)},
    "lokr of another size": {"lokr_w1": (3, 3), "lokr_w2": (5, 5)},
    "lokr of a kernel": {"lokr_w1": (2, 2), "lokr_w2": (3, 2, 3, 3)},
    "lokr of matrices": {"lokr_w1_a": (2, 1), "lokr_w1_b": (1, 2), "lokr_w2_a": (3, 1), "lokr_w2_b": (1, 2)},
    "lokr, tucker": {"lokr_w1": (2, 2), "lokr_t2": (1, 1, 3, 3), "lokr_w2_a": (1, 3), "lokr_w2_b": (1, 2)},
    "lokr without its second half": {"lokr_w1": (2, 2)},
    "glora, newer": _glora((4, 2), (2, 4), (6, 2), (2, 4)),
    "glora, older": _glora((2, 4), (4, 2), (2, 4), (6, 2)),
    "glora of another size": _glora((5, 2), (2, 5), (7, 2), (2, 5)),
    "glora of lines": _glora((4,), (4,), (6,), (4,)),
    "oft": {"oft_blocks": (3, 2, 2)},
    "oft of another size": {"oft_blocks": (4, 2, 2)},
    "boft": {"oft_blocks": (1, 3, 2, 2)},
    "boft of two rounds": {"oft_blocks": (2, 3, 2, 2)},
    "boft of another size": {"oft_blocks": (1, 4, 2, 2)},
    "boft without alpha": {"oft_blocks": (1, 3, 2, 2)},
    "diff": {"diff": (6, 4)},
    "diff of a kernel": {"diff": (6, 4, 3, 3)},
    "diff of another size": {"diff": (4, 6)},
    "norm": {"w_norm": (6,)},
    "set": {"set_weight": (6, 4)},
}
