"""Clear errors for things that a device cannot do: checked beforehand, or recognised in an error of PyTorch."""

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
    "implemented on mps",
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
_ADVICE = "try float32, turn off compiling and fp8, or use the CPU"
_OLDEST_COMPILED_FOR = (7, 0)  # Triton's limit
_OLDEST_WITH_BF16 = (8, 0)


def check_training_precision(name: str, device: torch.device) -> None:
    """Raises ValueError if a device cannot train with the `mixed_precision` called `name`."""
    if name == "fp16" and device.type != "cuda":
        raise ValueError(
            f'mixed_precision "fp16" needs a CUDA GPU, but the training device is {device.type}; use "bf16" or "no"'
        )
    if name == "bf16" and device.type == "cuda" and torch.version.hip is None and _is_before_bf16(device):
        raise ValueError('mixed_precision "bf16" needs a newer GPU than this one; use "fp16" or "no"')


def _is_before_bf16(device: torch.device) -> bool:
    """`torch.cuda.is_bf16_supported` also counts cards that only emulate it."""
    return torch.cuda.get_device_capability(device) < _OLDEST_WITH_BF16


def check_storage(device: torch.device) -> None:
    """Raises ValueError if a device has no 8-bit floats to store weights in."""
    if device.type == "mps":
        raise ValueError("device mps has no 8-bit floats; turn off fp8, and use bfloat16 or float16 to save memory")


def check_compute_capability(device: torch.device) -> None:
    """Raises ValueError if a GPU is too old for `torch.compile`."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _OLDEST_COMPILED_FOR:
        raise ValueError("this GPU is too old for torch.compile (it needs compute capability 7.0); turn off compiling")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory ran out, on any device."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _NO_MEMORY)


def lacking_ability(error: Exception, advice: str = _ADVICE) -> str:
    """A one-line message that ends in `advice` if the error means that the device or this build of PyTorch lacks
    something, else ""."""
    text = " ".join(str(error).split())
    if not any(sign in text.lower() for sign in _SIGNS):
        return ""
    return f"this device cannot do that ({one_line(text, 160)}); {advice}"
