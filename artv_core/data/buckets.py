"""Frame sizes for clips of unlike shapes: a clip is cropped to the nearest of a few, and a batch holds clips of one.

Aspect-ratio bucketing as NovelAI published it for fine-tuning Stable Diffusion (2022) and as is usual since; how the
sizes are chosen is ours.
"""

import math
from collections.abc import Sequence


def make_buckets(size: tuple[int, int], multiple: int = 64, longest_ratio: float = 2.0) -> tuple[tuple[int, int], ...]:
    """Sizes (height, width) in pixels from the tallest to the widest, `size` among them.

    Each width, in steps of `multiple` pixels, comes with the height for which the area is largest without being larger
    than `size`'s; the longer side is at most `longest_ratio` times the shorter. Raises ValueError where `size` is not
    made of multiples, or its own ratio is larger.
    """
    height, width = size
    if multiple < 1 or min(size) < 1 or height % multiple or width % multiple:
        raise ValueError(f"size {width}x{height} is not made of multiples of {multiple}; accepted are sizes that are")
    if not max(size) / min(size) <= longest_ratio:
        raise ValueError(
            f"size {width}x{height} is longer than {longest_ratio:g} to 1; raise longest_ratio or change it"
        )
    cells = (height // multiple) * (width // multiple)
    sizes = {(cells // columns, columns) for columns in range(1, cells + 1)}
    sizes |= {(columns, rows) for rows, columns in sizes}  # the same on its side
    shapes = [shape for shape in sizes if max(shape) <= longest_ratio * min(shape)]
    shapes = [shape for shape in shapes if not any(_holds(other, shape) for other in shapes)]
    ordered = sorted({(height // multiple, width // multiple), *shapes}, key=lambda shape: (shape[1] / shape[0], shape))
    return tuple((rows * multiple, columns * multiple) for rows, columns in ordered)


def nearest_bucket(height: float, width: float, buckets: Sequence[tuple[int, int]]) -> int:
    """Which bucket is nearest to a frame's shape, by the logarithm of its width over its height; of two as near, the
    first."""
    ratio = math.log(width / height)
    return min(range(len(buckets)), key=lambda at: abs(math.log(buckets[at][1] / buckets[at][0]) - ratio))


def _holds(outer: tuple[int, int], inner: tuple[int, int]) -> bool:
    return outer != inner and outer[0] >= inner[0] and outer[1] >= inner[1]
