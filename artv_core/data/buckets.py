"""Frame sizes for clips of different shapes: each clip is cropped to the nearest of a few sizes, and all clips of a
batch share one.

Aspect-ratio bucketing as NovelAI published it for fine-tuning Stable Diffusion (2022) and as is usual since. How the
sizes are chosen is not in the paper.
"""

import math
from collections.abc import Sequence


def make_buckets(size: tuple[int, int], multiple: int = 64, longest_ratio: float = 2.0) -> tuple[tuple[int, int], ...]:
    """Sizes (height, width) in pixels from the tallest to the widest; `size` is one of them.

    Each width, in steps of `multiple` pixels, is paired with the height that gives the largest area not above `size`'s.
    The longer side is at most `longest_ratio` times the shorter. Raises ValueError if the sides of `size` are not
    multiples of `multiple`, or if its own ratio is larger.
    """
    height, width = size
    if multiple < 1 or min(size) < 1 or height % multiple or width % multiple:
        raise ValueError(f"size {width}x{height}: both sides must be multiples of {multiple}")
    if not max(size) / min(size) <= longest_ratio:
        raise ValueError(
            f"size {width}x{height} is longer than {longest_ratio:g} to 1; choose a squarer size, or crop all clips to "
            "one size (--one-size; in training, data.bucket_multiple = 0)"
        )
    cells = (height // multiple) * (width // multiple)
    sizes = {(cells // columns, columns) for columns in range(1, cells + 1)}
    sizes |= {(columns, rows) for rows, columns in sizes}  # the same with height and width swapped
    shapes = [shape for shape in sizes if max(shape) <= longest_ratio * min(shape)]
    shapes = [shape for shape in shapes if not any(_holds(other, shape) for other in shapes)]
    ordered = sorted({(height // multiple, width // multiple), *shapes}, key=lambda shape: (shape[1] / shape[0], shape))
    return tuple((rows * multiple, columns * multiple) for rows, columns in ordered)


def nearest_bucket(height: float, width: float, buckets: Sequence[tuple[int, int]]) -> int:
    """The bucket nearest to a frame's shape, by the logarithm of width over height. In a tie the first one counts."""
    ratio = math.log(width / height)
    return min(range(len(buckets)), key=lambda at: abs(math.log(buckets[at][1] / buckets[at][0]) - ratio))


def _holds(outer: tuple[int, int], inner: tuple[int, int]) -> bool:
    return outer != inner and outer[0] >= inner[0] and outer[1] >= inner[1]
