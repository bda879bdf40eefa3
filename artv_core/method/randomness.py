"""Random numbers with a key, so that each frame's or training sample's numbers can be drawn in any order."""

import hashlib

import torch
from torch import Tensor


def seeded_generator(seed: int, *key: int | str) -> torch.Generator:
    """A CPU generator that depends only on (seed, *key), such as `seeded_generator(seed, frame_index, "sampler")`.

    Not in the paper."""
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def normal(shape: tuple[int, ...], generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal float32 numbers. They are always drawn on the CPU, so a seed gives the same noise everywhere."""
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(device)
