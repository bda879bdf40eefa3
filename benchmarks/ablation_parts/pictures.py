"""Pictures of the evidence: contact sheets and masks. All in docs/evidence/."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from artv_core.media import contact_sheet
from artv_core.synthetic.quality import quality_clips

FOLDER = Path(__file__).resolve().parents[2] / "docs/evidence"


def save_sheet(videos: Tensor, name: str, rows: int = 6, columns: int = 8) -> None:
    """The first held-out prompts' videos [N, T, 3, H, W], frames evenly spaced."""
    clips = quality_clips(min(rows, len(videos)))
    save_rows([(clip.caption, video) for clip, video in zip(clips, videos, strict=False)], name, columns)


def save_rows(rows: Sequence[tuple[str, Tensor]], name: str, columns: int = 8) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    contact_sheet(rows, columns=columns).save(FOLDER / f"{name.replace(' ', '-')}.png")


def save_grid(name: str, pictures: Tensor, titles: Sequence[str]) -> None:
    """Pictures [N, T, 3, H, W], one row for each N, each column under its title."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = pictures.shape[:2]
    figure = Figure(figsize=(0.85 * columns, 0.85 * rows + 0.3), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any
    for row, across in zip(pictures, figure.subplots(rows, columns, squeeze=False), strict=True):
        for picture, axes in zip(row, across, strict=True):
            axes.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
            axes.set_axis_off()
    for axes, title in zip(figure.axes, titles, strict=False):
        axes.set_title(title, fontsize=8)
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure.savefig(FOLDER / f"{name}.png")
