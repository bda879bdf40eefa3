"""Training speed: samples per second, and the share of the device's peak arithmetic that is used."""

import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

PEAK_TFLOPS = {
    "B200": 2250,
    "H200": 989,
    "H100 NVL": 835,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L40": 181,
    "RTX 6000 Ada": 364,
    "A6000": 155,
    "A10G": 70,
    "A10": 125,
    "L4": 121,
    "RTX 5090": 210,
    "RTX 4090": 165,
    "RTX 4080": 97,
    "RTX 3090": 71,
    "V100": 125,
    "T4": 65,
}
"""Dense half-precision matrix arithmetic with float32 accumulation, in TFLOP/s, from the makers' data sheets. The first
name that occurs in the device's name counts."""


def peak_flops(device: torch.device, half: bool) -> tuple[float, str]:
    """The device's peak FLOP/s and its source: the data sheet, or for a device that is not listed, the best of a few
    large matrix products."""
    if device.type == "cuda" and half:
        name = torch.cuda.get_device_name(device)
        for part, tera in PEAK_TFLOPS.items():
            if part.lower() in name.lower():
                return tera * 1e12, f"{name}: {tera} TFLOP/s by its data sheet"
    measured = _matmul_flops(device, torch.bfloat16 if half else torch.float32)
    return measured, f"{measured / 1e12:.3g} TFLOP/s measured with a matrix product"


def _matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    side, best = (8192 if device.type == "cuda" else 1024), 0.0
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    for _ in range(6):
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best


def count_flops(module: nn.Module, arguments: tuple) -> int:
    """Floating-point operations of one forward and backward pass of a module on the meta device, without computing
    anything. Work that gradient checkpointing does twice is counted once (MFU, Chowdhery et al. 2022, arXiv
    2204.02311)."""
    with FlopCounterMode(display=False) as counter:
        loss, _ = module(*arguments)
        loss.backward()
    return counter.get_total_flops()


class Meter:
    """Samples per second and MFU since the last reading, without the time for saving and sheets."""

    def __init__(self, flops_per_sample: float, peak: float) -> None:
        self.flops_per_sample, self.peak = flops_per_sample, peak
        self.samples, self.waiting, self.idle = 0, 0.0, 0.0
        self.started = time.perf_counter()

    def add(self, samples: int, waited: float) -> None:
        """Count a step of `samples` (over all processes). `waited`: seconds in which the device was idle because the
        samples were late."""
        self.samples += samples
        self.waiting += waited

    def leave_out(self, seconds: float) -> None:
        """Leave out seconds that were spent on something else."""
        self.idle += seconds

    def read(self) -> dict[str, float]:
        """Scalars to log: samples per second, MFU in [0, 1], share of the time spent waiting for data. Starts a new
        reading."""
        now = time.perf_counter()
        seconds = max(1e-9, now - self.started - self.idle)
        rate, waiting = self.samples / seconds, self.waiting / seconds
        self.samples, self.waiting, self.idle, self.started = 0, 0.0, 0.0, now
        return {
            "samples_per_second": rate,
            "mfu": rate * self.flops_per_sample / self.peak,
            "waiting_for_data": waiting,
        }
