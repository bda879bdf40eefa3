"""What a device cannot do, said in one line before it is tried, or where only trying tells, in place of a traceback."""

import torch

from ..files.partial_file import one_line

_SIGNS = (
    "not implemented for '",  # "conv2d" not implemented for 'Half'
    "could not run 'aten::",
    "is not currently implemented for the",
    "no kernel image is available",
    "too old to be supported",
    "does not have support for that dtype",
    "is not supported on",
    "not supported on mps",
    "mps framework doesn't support",
    "not compiled with cuda enabled",
    "requires compute capability",
    "requires device with capability",
    "low precision dtypes not supported",
    "unsupported dtype",
    "invalid device function",
    "cublas_status_not_supported",
)
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
_ADVICE = "try float32, do without compiling and fp8, or the cpu"
_OLDEST_COMPILED_FOR = (7, 0)  # Triton's


def check_training_precision(name: str, device: torch.device) -> None:
    """Raises ValueError, one line, where a device cannot train with that `mixed_precision`."""
    if name == "fp16" and device.type != "cuda":
        raise ValueError(
            f'mixed_precision "fp16" needs a CUDA GPU, and this would train on the {device.type}; use "bf16" or "no"'
        )
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError('mixed_precision "bf16" needs a newer GPU than this one; use "fp16" or "no"')


def check_storage(device: torch.device) -> None:
    """Raises ValueError, one line, where a device has no 8-bit floats to keep weights in."""
    if device.type == "mps":
        raise ValueError("device mps has no 8-bit floats; leave out fp8, and use bfloat16 or float16 to save memory")


def check_compute_capability(device: torch.device) -> None:
    """Raises ValueError, one line, where a card is too old for `torch.compile`."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _OLDEST_COMPILED_FOR:
        raise ValueError("this GPU is too old to be compiled for (compute capability 7.0 is needed); do not compile")


def is_out_of_memory(error: Exception) -> bool:
    """Whether there was no room, on whatever device."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _NO_MEMORY)


def lacking_ability(error: Exception, advice: str = _ADVICE) -> str:
    """One line that ends in `advice` where a device, or this PyTorch on it, cannot do something; else ""."""
    text = " ".join(str(error).split())
    if not any(sign in text.lower() for sign in _SIGNS):
        return ""
    return f"this device cannot do that ({one_line(text, 160)}); {advice}"
