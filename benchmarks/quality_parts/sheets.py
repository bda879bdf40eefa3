"""Contact sheets of measured videos, with what the judge says of each."""

from pathlib import Path

from artv_core.evaluation.pictures import WINDOW, Watched
from artv_core.evaluation.pictures_judge import named
from artv_core.evaluation.pictures_motion import told_motions
from artv_core.media import contact_sheet
from artv_core.synthetic.pictures.names import PLACES, THINGS

ROWS, COLUMNS = 12, 8
QUALITY = 88


def save_sheet(watched: Watched, path: Path, first: int = 0, rows: int = ROWS) -> None:
    """`rows` of the videos from number `first` on, each under its prompt and what the judge sees in its first, middle
    and last frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = range(first, min(first + rows, len(watched.prompts)))
    sheet = contact_sheet([(label(watched, number), watched.videos[number]) for number in numbers], columns=COLUMNS)
    sheet.save(path, quality=QUALITY)


def label(watched: Watched, number: int) -> str:
    """The prompt, and what is seen."""
    last = watched.videos.shape[1] - 1
    frames = sorted({0, min(15, last), last})
    things = named(watched.seen.things[number], THINGS)
    there = watched.seen.there[number] > 0.5
    seen = [f"{frame}: {things[frame] if there[frame] else 'nothing'}" for frame in frames]
    place = named(watched.seen.places[number, :1], PLACES)[0]
    motion = told_motions(watched.seen, 0, WINDOW)[number]
    return f"{watched.prompts[number].caption}   [{', '.join(seen)}; {motion}; {place}]"
