"""The content of `artv demo`: three clips, one of each kind, and a contact sheet of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..config import ARTVConfig
from ..files.partial_file import replacing
from ..media import contact_sheet
from ..method.generate import GenerateOptions
from ..run.job import Job
from ..run.pipeline import DecodedFrame

DEMO_FRAMES = 16
DEMO_PIXELS = 256
DEMO_TEXT = "a large red circle moving right fast on a blue background"
DEMO_IMAGE = "a large yellow square moving down fast on a purple background"
DEMO_TWO = (
    "a large white circle moving right fast on a green background",
    "a large white circle moving up fast on a green background",
)


@dataclass
class Reel:
    """A job of the demo, and the frames it made."""

    title: str
    job: Job
    frames: list[Tensor] = field(default_factory=list)

    def take(self, frame: DecodedFrame) -> None:
        """Keep the frame's first video for the contact sheet."""
        self.frames.append(frame.image[0].cpu())


def demo_reels(config: ARTVConfig, output: Path, seed: int) -> list[Reel]:
    """The three jobs, which write into `output`. The image for the second one is painted there."""

    def reel(title: str, file: str, prompts: Sequence[str], image: Path | None = None) -> Reel:
        options = GenerateOptions(num_frames=DEMO_FRAMES * len(prompts), seed=seed).resolved(config)
        job = Job(
            prompts=[(DEMO_FRAMES * index, prompt) for index, prompt in enumerate(prompts)],
            options=options,
            videos=[output / file],
            fps=config.fps,
            upscale=max(1, DEMO_PIXELS // max(config.size)),
            image=image,
            checkpoint=config.name,
        )
        return Reel(title, job)

    image = output / "image.png"
    _paint_demo_image(image, *config.size)
    return [
        reel("text to video", "text-to-video.mp4", [DEMO_TEXT]),
        reel("image to video", "image-to-video.mp4", [DEMO_IMAGE], image),
        reel("two prompts", "two-prompts.mp4", DEMO_TWO),
    ]


def _row_label(reel: Reel) -> str:
    return f"{reel.title}: {' / then: '.join(text for _, text in reel.job.prompts)}"


def _paint_demo_image(path: Path, height: int, width: int) -> None:
    """A picture for the image-to-video clip, drawn by the synthetic world that the shipped checkpoint was trained
    on."""
    from PIL import Image

    from ..synthetic.shapes import Clip, render

    look = {"color": "yellow", "kind": "square", "size": "large", "texture": "plain", "background": "purple"}
    move = {"motion": "down", "speed": "fast", "x": 0.5, "y": 0.35, "phase": 0.0}
    clip = Clip(**look, **move, tint=0.0, background_tint=0.0, caption=DEMO_IMAGE)  # type: ignore[arg-type]
    pixels = (render([clip], 1, height, width)[0, 0] * 255).round().byte().permute(1, 2, 0).numpy()
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def write_sheet(reels: Sequence[Reel], path: Path) -> None:
    """One row of frames for each clip, below its prompts."""
    rows = [(_row_label(reel), reel.frames) for reel in reels]
    with replacing(path) as temporary:
        contact_sheet(rows).save(temporary, format="PNG")
