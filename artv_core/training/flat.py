"""Muon and AdamW on weights that are stored one after another in one flat tensor, like their gradients, moments and
averages.

Elementwise work is then one kernel for all weights. Matrices of one shape are adjacent and are orthogonalised together,
along with shorter ones that are padded with zeros. Every step uses the same memory and reads learning rates from the
device, so a CUDA graph can capture it. The arithmetic, and the names in a saved state, are those of
`optimizers.make_optimizer` and `MovingAverage`. Not in the paper.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .ema import MovingAverage

ALIGNED = 8
"""Each weight starts at a multiple of this many numbers: 16 bytes in bfloat16, as fast kernels require."""

PADDING = 2**19
"""The most zeros that pad matrices of one shape so that they share a batch with longer ones. Computing them takes at
most as long as launching a separate batch."""

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of Muon's Newton-Schulz iteration (Jordan et al. 2024)."""


@dataclass(frozen=True)
class Place:
    """Where a weight is in a flat tensor, and the strides it had before."""

    offset: int
    shape: torch.Size
    strides: tuple[int, ...]

    def of(self, flat: Tensor) -> Tensor:
        """The view of this weight in a flat tensor."""
        return flat.as_strided(self.shape, self.strides, self.offset)

    def shaped(self, piece: Tensor) -> Tensor:
        """This weight from its own piece of a flat tensor, [numel], using only views and permutations so that gradients
        flow without copies."""
        last = len(self.shape) == 4 and self.strides[1] == 1 < self.shape[1]
        if not last:
            return piece.view(self.shape)
        out, channels, height, width = self.shape
        return piece.view(out, height, width, channels).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Matrices:
    """`count` weights of one shape, as matrices that start `room` numbers apart."""

    offset: int
    count: int
    room: int
    rows: int
    columns: int

    @property
    def wide(self) -> tuple[int, int]:
        """The two sides, the short one first."""
        return min(self.rows, self.columns), max(self.rows, self.columns)

    def of(self, flat: Tensor) -> Tensor:
        """These matrices [count, short, long] as a view of a flat tensor."""
        own = flat[self.offset : self.offset + self.count * self.room].view(self.count, self.room)
        whole = own[:, : self.rows * self.columns].unflatten(1, (self.rows, self.columns))
        return whole.mT if self.rows > self.columns else whole


@dataclass
class Segment:
    """One optimiser group's part of the flat tensors, and its numbers for the current step, on the device."""

    group: dict[str, Any]
    start: int
    end: int
    shapes: list[Matrices] = field(default_factory=list)
    rate: Tensor = field(default_factory=lambda: torch.zeros(()))
    kept: Tensor = field(default_factory=lambda: torch.zeros(()))
    root: Tensor = field(default_factory=lambda: torch.zeros(()))

    def of(self, flat: Tensor) -> Tensor:
        """This group's part of a flat tensor."""
        return flat[self.start : self.end]


class FlatOptimizer(torch.optim.Optimizer):
    """Makes the same steps as the optimiser `usual`, whose groups it takes over. `usual` must not have made a step yet.

    Weights and gradients become views of `weights` and `gradients`. `left_out` are weights that never get a gradient;
    they are not moved. `begin` is the part of a step that runs on the host, `update` the part on the device. Weights
    must be float32 and on their device already.
    """

    def __init__(self, usual: torch.optim.Optimizer, left_out: Collection[nn.Parameter] = ()) -> None:
        super().__init__([dict(group) for group in usual.param_groups], {})
        unused = {id(parameter) for parameter in left_out}
        self.places: dict[nn.Parameter, Place] = {}
        self.segments: list[Segment] = []
        end = 0
        for group in self.param_groups:
            used = [parameter for parameter in group["params"] if id(parameter) not in unused]
            self.segments.append(self._laid_out(group, used, end))
            end = self.segments[-1].end
        device = next(iter(self.places)).device
        self.taken = torch.zeros((), device=device)
        self.weights, self.gradients, self.first, self.second = (torch.zeros(end, device=device) for _ in range(4))
        for segment in self.segments:
            segment.rate, segment.kept, segment.root = (torch.zeros((), device=device) for _ in range(3))
        self._move_in()

    def _laid_out(self, group: dict[str, Any], used: list[nn.Parameter], start: int) -> Segment:
        muon = bool(group.get("use_muon"))
        if muon:
            group.setdefault("step", 0)
            used = sorted(used, key=_sides)
        elif "use_muon" in group:
            group.setdefault("step", 0)
        segment, end = Segment(group, start, start), start
        for parameter in used:
            room = -(-parameter.numel() // ALIGNED) * ALIGNED
            self.places[parameter] = Place(end, parameter.shape, _dense_strides(parameter))
            if muon:
                _add_matrix(segment.shapes, end, room, *_sides(parameter))
            end += room
        segment.end = end
        return segment

    @torch.no_grad()
    def _move_in(self) -> None:
        for parameter, place in self.places.items():
            place.of(self.weights).copy_(parameter)
            parameter.data = place.of(self.weights)
            parameter.grad = place.of(self.gradients)
        self._name_state()

    def _name_state(self) -> None:
        """Expose the moments under the names that the usual optimisers give them."""
        self.state.clear()
        for group in self.param_groups:
            for parameter in group["params"]:
                place = self.places.get(parameter)
                if place is None:
                    continue
                if group.get("use_muon"):
                    self.state[parameter] = {"momentum_buffer": place.of(self.first)}
                else:
                    moments = {"exp_avg": place.of(self.first), "exp_avg_sq": place.of(self.second)}
                    counted = {} if "use_muon" in group else {"step": self.taken}
                    self.state[parameter] = counted | moments

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a saved state. It is copied into the flat tensors, which keep their memory."""
        super().load_state_dict(state_dict)
        loaded = {parameter: dict(self.state[parameter]) for parameter in self.places if parameter in self.state}
        self._name_state()
        for segment, group in zip(self.segments, self.param_groups, strict=True):
            segment.group = group
        for parameter, values in loaded.items():
            for name, value in values.items():
                self.state[parameter][name].copy_(value)

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Set all gradients to zero. They keep their memory whatever `set_to_none` says."""
        self.gradients.zero_()

    def begin(self, done: int) -> None:
        """Begin the step after `done` others: send the device the current learning rates and other numbers of each
        group. Does not wait for the device."""
        self.taken.fill_(done + 1)
        for segment in self.segments:
            group = segment.group
            if "step" in group:
                group["step"] = done + 1
            rate = float(group["lr"])
            segment.kept.fill_(1 - rate * group["weight_decay"])
            if not group.get("use_muon"):
                fast, slow = group["betas"]
                segment.root.fill_(math.sqrt(1 - slow ** (done + 1)))
                rate /= 1 - fast ** (done + 1)
            segment.rate.fill_(rate)

    @torch.no_grad()
    def clip(self, limit: float) -> Tensor:
        """Scale all gradients down together if their norm is above `limit`. Returns the norm before that, []."""
        norm = torch.linalg.vector_norm(self.gradients)
        self.gradients.mul_((limit / (norm + 1e-6)).clamp(max=1.0))
        return norm

    @torch.no_grad()
    def update(self) -> None:
        """Update the weights. This overwrites the gradients."""
        for segment in self.segments:
            segment.of(self.weights).mul_(segment.kept)
            (self._muon if segment.group.get("use_muon") else self._adamw)(segment)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """`begin` and `update` for the next step."""
        self.begin(int(self.taken))
        self.update()

    def _adamw(self, segment: Segment) -> None:
        (fast, slow), eps = segment.group["betas"], segment.group["eps"]
        gradient, first, second = (segment.of(flat) for flat in (self.gradients, self.first, self.second))
        first.lerp_(gradient, 1 - fast)
        second.mul_(slow).addcmul_(gradient, gradient, value=1 - slow)
        change = first / second.sqrt().div_(segment.root).add_(eps)
        segment.of(self.weights).addcmul_(change, segment.rate, value=-1)

    def _muon(self, segment: Segment) -> None:
        gradient, momentum, decay = segment.of(self.gradients), segment.of(self.first), segment.group["momentum"]
        momentum.lerp_(gradient, 1 - decay)
        gradient.lerp_(momentum, decay)  # Nesterov momentum
        for alike in in_batches(segment.shapes):
            counts, (short, long) = [matrices.count for matrices in alike], alike[0].wide
            batch = gradient.new_zeros(sum(counts), short, long, dtype=torch.bfloat16)
            for matrices, part in zip(alike, batch.split(counts), strict=True):
                part[:, :, : matrices.wide[1]].copy_(matrices.of(self.gradients))
            for matrices, part in zip(alike, orthogonal(batch).split(counts), strict=True):
                scale = 0.2 * math.sqrt(matrices.wide[1])  # Moonlight (Liu et al. 2025): about as large as AdamW's
                turned = part[:, :, : matrices.wide[1]].float()
                matrices.of(self.weights).addcmul_(turned, segment.rate, value=-scale)


class FlatAverage(MovingAverage):
    """The moving average of a flat optimiser's weights, stored flat as well."""

    def __init__(self, module: nn.Module, decay: float, optimizer: FlatOptimizer) -> None:
        super().__init__(module, decay)
        self.weights, self.flat = optimizer.weights, optimizer.weights.clone()
        for name in self.averages:
            place = optimizer.places.get(self.parameters[name])
            if place is not None:
                self.averages[name] = place.of(self.flat)

    @torch.no_grad()
    def update(self) -> None:
        """Add the current weights to the averages."""
        if self.averages:
            self.flat.lerp_(self.weights, 1 - self.decay)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """[N, short, long] in bfloat16, each with all its singular values brought near 1 (Muon's Newton-Schulz)."""
    linear, cubic, fifth = QUINTIC
    norm = torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True)
    matrices = matrices / norm.clamp(min=1e-7)
    for _ in range(steps):
        gram = matrices @ matrices.mT
        mixed = torch.baddbmm(gram, gram, gram, beta=cubic, alpha=fifth)
        matrices = torch.baddbmm(matrices, mixed, matrices, beta=linear)
    return matrices


def in_batches(shapes: Sequence[Matrices]) -> list[list[Matrices]]:
    """Group matrices to be orthogonalised together: equal short sides, the longest matrices first."""
    batches: list[list[Matrices]] = []
    for matrices in sorted(shapes, key=lambda matrices: matrices.wide, reverse=True):
        (short, long), (first_short, first_long) = matrices.wide, batches[-1][0].wide if batches else (0, 0)
        if short == first_short and matrices.count * short * (first_long - long) <= PADDING:
            batches[-1].append(matrices)
        else:
            batches.append([matrices])
    return batches


def own_memory(module: nn.Module) -> nn.Module:
    """Give the module's weights memory of their own, outside the flat tensors, and drop the gradients. Returns the
    module."""
    for parameter in module.parameters():
        parameter.grad = None
        parameter.data = parameter.data.clone()
    return module


def _sides(parameter: Tensor) -> tuple[int, int]:
    return parameter.shape[0], parameter[0].numel()


def _dense_strides(parameter: Tensor) -> tuple[int, ...]:
    """The weight's own strides if it is contiguous or channels-last; else contiguous strides."""
    dense = parameter.is_contiguous() or (
        parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
    )
    return parameter.stride() if dense else torch.empty(parameter.shape, device="meta").stride()


def _add_matrix(shapes: list[Matrices], offset: int, room: int, rows: int, columns: int) -> None:
    last = shapes[-1] if shapes else None
    if last is not None and (last.rows, last.columns) == (rows, columns):
        shapes[-1] = Matrices(last.offset, last.count + 1, room, rows, columns)
    else:
        shapes.append(Matrices(offset, 1, room, rows, columns))
