"""Analyses a LoRA file: the names it may use, which of its patches fit a weight, and what it leaves unused.

The host applies patches when it loads a weight, and skips one that does not fit with only a line in its log. So each
kind of patch is checked here, by the shapes of its parts, before the host gets it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

_PEFT = "base_model.model."


def with_other_names(names: Mapping[str, str]) -> dict[str, str]:
    """`names` as the host knows them, from a LoRA's name to a weight's key, plus the names of newer diffusers and of
    PEFT.

    The host knows diffusers' attention layers only by an older spelling, `attn1.processor.to_q`, and PEFT's prefix
    `base_model.model.` only for other models.
    """
    found = dict(names)
    for name, key in names.items():
        for other in _spellings(name):
            for prefix in ("", _PEFT):
                found.setdefault(prefix + other, key)
    return found


def _spellings(name: str) -> Iterator[str]:
    plain = name.replace(".processor.to_", ".to_")
    yield plain
    if plain.endswith(".to_out"):
        yield f"{plain}.0"
    if plain.startswith("text_encoder."):
        yield plain.removeprefix("text_encoder.")


def fits(patch: Any, shape: Sequence[int]) -> bool:
    """Whether the host can apply a patch of its reader to a weight of this shape. True for unknown kinds of patches."""
    if isinstance(patch, tuple):  # ("diff", (tensor,))
        return patch[1][0].shape == tuple(shape)
    check = _CHECKS.get(getattr(patch, "name", ""))
    try:
        return check is None or check(patch.weights, tuple(shape))
    except (IndexError, ValueError):  # parts with too few dimensions, or missing parts
        return False


def unused_keys(tensors: Mapping[str, Tensor], patches: Mapping[Any, Any]) -> list[str]:
    """Keys of a file that no patch uses."""
    used = {id(tensor) for patch in patches.values() for tensor in _parts(patch)}
    used_keys = {key for key, tensor in tensors.items() if id(tensor) in used}
    stems = {stem for key in used_keys for stem in _heads(key)}
    # These are read as numbers and not kept as tensors.
    numbers = {f"{stem}.{name}" for stem in stems for name in ("alpha", "reshape_weight")}
    return [key for key in tensors if key not in used_keys and key not in numbers]


def _parts(patch: Any) -> Iterator[Tensor]:
    parts = patch[1] if isinstance(patch, tuple) else getattr(patch, "weights", ())
    return (part for part in parts if isinstance(part, Tensor))


def _heads(key: str) -> Iterator[str]:
    """The beginnings of a key before each of its dots. Older diffusers end them with `_lora`, which is not part of the
    name."""
    parts = key.split(".")
    for end in range(1, len(parts)):
        yield ".".join(parts[:end]).removesuffix("_lora")


def _lora(parts: Sequence[Any], shape: tuple[int, ...]) -> bool:
    up, down, _, middle, scale, padded = parts
    if padded is not None and tuple(padded) != shape:
        return False  # the host would enlarge the weight without telling its layer
    made = _product(up, down) if middle is None else _with_middle(up, down, middle)
    return _made_for(made, shape) and _scales(scale, shape)


def _loha(parts: Sequence[Any], shape: tuple[int, ...]) -> bool:
    a1, b1, _, a2, b2, core1, core2, scale = parts
    if core1 is None:
        first, second = _matrices(a1, b1), _matrices(a2, b2)
    else:
        first, second = _tucker(a1, b1, core1), _tucker(a2, b2, core2)
    return first == second and _made_for(first, shape) and _scales(scale, shape)


def _lokr(parts: Sequence[Any], shape: tuple[int, ...]) -> bool:
    one, two, _, a1, b1, a2, b2, core, scale = parts
    first = _matrices(a1, b1) if one is None else tuple(one.shape)
    second = tuple(two.shape) if two is not None else _matrices(a2, b2) if core is None else _tucker(a2, b2, core)
    if first is None or second is None or len(first) != 2 or len(second) not in (2, 4):
        return False
    made = (first[0] * second[0], first[1] * prod(second[1:]))
    if not (_made_for(made, shape) and _scales(scale, shape)):
        return False
    return two is not None or core is None or _kron_takes(core)


def _kron_takes(core: Tensor) -> bool:
    """Whether PyTorch's Kronecker product accepts what the host makes with a core; some versions reject its layout."""
    ranks = torch.zeros(core.shape[0], 2), torch.zeros(core.shape[1], 3)
    second = torch.einsum("i j k l, j r, i p -> p r k l", core.float(), ranks[1], ranks[0])
    try:
        torch.kron(torch.zeros(2, 2, 1, 1), second)
    except RuntimeError:
        return False
    return True


def _glora(parts: Sequence[Any], shape: tuple[int, ...]) -> bool:
    a1, a2, b1, b2 = (part.flatten(1) for part in parts[:4])
    older = b2.shape[1] == b1.shape[0] == a1.shape[0] == a2.shape[1]
    newer = b2.shape[0] == b1.shape[1] == a1.shape[1] == a2.shape[0]
    if older and newer:
        newer = not a2.shape[0] == shape[0] == shape[1]
    columns = prod(shape[1:])
    if newer:
        sides, made = {a1.shape[0], a2.shape[1], shape[1]}, _product(b1, b2)
    elif older:
        sides, made = {a2.shape[0], a1.shape[1], columns}, _product(b2, b1)
    else:
        return False
    return len(sides) == 1 and _made_for(made, shape) and _scales(parts[5], shape)


def _oft(parts: Sequence[Any], shape: tuple[int, ...]) -> bool:
    blocks, _, _, scale = parts
    count, rows, columns = blocks.shape
    return rows == columns and count * rows == shape[0] and _scales(scale, shape)


def _boft(parts: Sequence[Any], shape: tuple[int, ...]) -> bool:
    blocks, rescale, alpha, scale = parts
    rounds, count, rows, columns = blocks.shape
    if alpha is None or rows != columns or rows % 2 or count * rows != shape[0]:
        return False  # the host cannot apply it without an alpha
    if rounds and shape[0] % (2 ** (rounds - 1) * rows):
        return False
    return _scales(rescale, shape) and _scales(scale, shape)


_CHECKS: dict[str, Callable[[Sequence[Any], tuple[int, ...]], bool]] = {
    "lora": _lora,
    "loha": _loha,
    "lokr": _lokr,
    "glora": _glora,
    "oft": _oft,
    "boft": _boft,
}


def _made_for(made: Sequence[int] | None, shape: tuple[int, ...]) -> bool:
    """Whether a change of shape `made` has as many rows and as many numbers as the weight."""
    return made is not None and made[0] == shape[0] and prod(made) == prod(shape)


def _product(up: Tensor, down: Tensor) -> tuple[int, int] | None:
    """Shape of the product of two kernels, each flattened to a matrix by rows; None if they do not fit."""
    return (up.shape[0], down[0].numel()) if up[0].numel() == down.shape[0] else None


def _matrices(a: Tensor | None, b: Tensor | None) -> tuple[int, ...] | None:
    if a is None or b is None or a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        return None
    return (a.shape[0], b.shape[1])


def _tucker(a: Tensor | None, b: Tensor | None, core: Tensor | None) -> tuple[int, ...] | None:
    """Shape of a Tucker product: a [r1, rows], b [r2, columns], core [r1, r2, h, w]."""
    if a is None or b is None or core is None or a.ndim != 2 or b.ndim != 2 or core.ndim != 4:
        return None
    fitting = core.shape[0] == a.shape[0] and core.shape[1] == b.shape[0]
    return (a.shape[1], b.shape[1], *core.shape[2:]) if fitting else None


def _with_middle(up: Tensor, down: Tensor, middle: Tensor) -> tuple[int, ...] | None:
    """Shape of LoCon's product of three kernels: up [rows, r, 1, 1], middle [r, r, h, w], down [r, columns, 1, 1]."""
    rank, columns = down.shape[0], down.shape[1]
    if middle.ndim != 4 or down[0].numel() != columns or tuple(middle.shape[:2]) != (rank, rank):
        return None
    return (up.shape[0], columns, *middle.shape[2:]) if up[0].numel() == rank else None


def _scales(scale: Tensor | None, shape: tuple[int, ...]) -> bool:
    """Whether a scale, of DoRA or of OFT, can be multiplied with a weight of this shape."""
    if scale is None:
        return True
    if not scale.ndim:
        return False
    try:
        return torch.broadcast_shapes(scale.shape, shape) == shape
    except RuntimeError:
        return False
