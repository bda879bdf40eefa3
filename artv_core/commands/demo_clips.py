"""The content of `artv demo`: three clips, one of each kind, and a contact sheet of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from ..config import ARTVConfig
from ..files.partial_file import replacing
from ..media import contact_sheet
from ..method.options import GenerateOptions
from ..models.known_words import unknown_words
from ..run.job import Job
from ..run.pipeline import DecodedFrame

DEMO_FRAMES = 16
DEMO_PIXELS = 512


@dataclass(frozen=True)
class Script:
    """What the three clips show. `image` is the prompt of the clip that starts from a picture, `paint` draws that
    picture (height, width) as uint8 [H, W, 3], and `two` are the prompts of the third clip."""

    text: str
    image: str
    paint: Callable[[int, int], np.ndarray]
    two: tuple[str, ...]

    @property
    def prompts(self) -> list[str]:
        """All of them."""
        return [self.text, self.image, *self.two]


def _paint_rocket(height: int, width: int) -> np.ndarray:
    """The world of pictures, at any size: a thing below the centre of a place."""
    from PIL import Image, ImageOps

    from ..synthetic.pictures.names import PLACES, THINGS
    from ..synthetic.pictures.places import paint_place
    from ..synthetic.pictures.things import read_things

    place = paint_place(PLACES.index("before a night sky with stars"), 0)
    ground = np.asarray(ImageOps.fit(place, (width, height)).convert("RGB"), dtype=np.float32)
    side = round(50 / 128 * min(height, width))
    thing = Image.fromarray(read_things()[THINGS.index("rocket")].permute(1, 2, 0).numpy()).resize((side, side))
    over = np.zeros((height, width, 4), dtype=np.float32)
    top, left = (2 * height - side) // 3, (width - side) // 2
    over[top : top + side, left : left + side] = np.asarray(thing)
    return (over[..., :3] + ground * (1 - over[..., 3:] / 255)).round().clip(0, 255).astype(np.uint8)


def _paint_square(height: int, width: int) -> np.ndarray:
    """The world of shapes."""
    from ..synthetic.shapes import Clip, render

    look = {"color": "yellow", "kind": "square", "size": "large", "texture": "plain", "background": "purple"}
    move = {"motion": "down", "speed": "fast", "x": 0.5, "y": 0.35, "phase": 0.0}
    clip = Clip(**look, **move, tint=0.0, background_tint=0.0, caption="")  # type: ignore[arg-type]
    return (render([clip], 1, height, width)[0, 0] * 255).round().byte().permute(1, 2, 0).numpy()


PICTURES = Script(
    text="a sailboat moving left slowly on a sea with waves",
    image="a rocket moving up slowly before a night sky with stars",
    paint=_paint_rocket,
    two=("a fox moving right slowly on a purple background", "a fox bouncing on a purple background"),
)
SHAPES = Script(
    text="a large red circle moving right fast on a blue background",
    image="a large yellow square moving down fast on a purple background",
    paint=_paint_square,
    two=(
        "a large white circle moving right fast on a green background",
        "a large white circle moving up fast on a green background",
    ),
)


def script_for(config: ARTVConfig) -> Script:
    """The first script all of whose words the checkpoint knows; else that of the default checkpoint."""
    known = (script for script in (PICTURES, SHAPES) if not unknown_words(script.prompts, config.vocabulary))
    return next(known, PICTURES)


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
    """The three jobs, which write into `output`. The picture for the second one is painted there."""

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

    script, image = script_for(config), output / "image.png"
    _write_image(script.paint(*config.size), image)
    return [
        reel("text to video", "text-to-video.mp4", [script.text]),
        reel("image to video", "image-to-video.mp4", [script.image], image),
        reel("two prompts", "two-prompts.mp4", script.two),
    ]


def _row_label(reel: Reel) -> str:
    return f"{reel.title}: {' / then: '.join(text for _, text in reel.job.prompts)}"


def _write_image(pixels: np.ndarray, path: Path) -> None:
    from PIL import Image

    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def write_sheet(reels: Sequence[Reel], path: Path) -> None:
    """One row of frames for each clip, below its prompts."""
    rows = [(_row_label(reel), reel.frames) for reel in reels]
    with replacing(path) as temporary:
        contact_sheet(rows).save(temporary, format="PNG")
