"""A text track that takes new prompts while its video is made, and knows which frame each one began at. Not in the
paper."""

import threading
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from ..method.text_track import FOREVER, TextSegment, TextTrack
from ..models.prompt_weights import read_weights
from ..prompts.patterns import BYTE_ORDER_MARK
from ..prompts.problems import words_problem
from ..prompts.prompt_schedule import PromptSchedule, PromptSegment, blended_spans

MAX_CHARACTERS = 2000
"""The longest prompt that can be said while a video is made."""

Encode = Callable[[str], Tensor]
"""encode(prompt) -> its context [L, D]. Called between two frames, in the thread that makes them."""


def checked_prompt(text: str) -> str:
    """As `kept_prompt`, and without byte order marks, which are invisible and may come with pasted text. Raises
    ValueError on an expression or --neg, too, because no schedule can contain them."""
    text = kept_prompt(text.replace(BYTE_ORDER_MARK, ""))
    if problem := words_problem(text):
        raise ValueError(problem)
    return text


def kept_prompt(text: str) -> str:
    """The prompt without spaces around it. Raises ValueError if it is empty, too long, has weights out of range, or
    has half of a character, which no file can keep."""
    text = text.strip()
    if not text:
        raise ValueError("the prompt is empty; write what the video should show next")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"the prompt has {len(text)} characters; accepted are up to {MAX_CHARACTERS}")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("the prompt has half of a character, as of an emoji that was cut; write the character again")
    read_weights(text)
    return text


class SteeredTrack(TextTrack):
    """Prompts (start frame, text), ascending from frame 0, and what is said later with `say`.

    A prompt that is said counts from the next frame on that is not begun, until the next prompt of the schedule. What
    is said again before that frame replaces it. With `blend_frames` a prompt fades in as in a schedule; then a new one
    waits until the one before has faded in, so that `schedule` gives the same frames again.

    `encoded` has contexts that are known already; they are not encoded again. Raises ValueError if the prompts do not
    ascend from frame 0.
    """

    def __init__(
        self,
        prompts: Sequence[tuple[int, str]],
        encode: Encode,
        blend_frames: int = 0,
        encoded: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._encode, self._blend, self._contexts = encode, blend_frames, dict(encoded or {})
        self._lock = threading.Lock()
        self._scheduled, self._said = dict(prompts), dict[int, str]()
        self._waiting: str | None = None
        self.on_change: Callable[[], None] = lambda: None
        """Called after a prompt that was said got its frame, before that frame is made."""
        super().__init__([TextSegment(start, self._context(text)) for start, text in prompts])
        self._rebuild()

    def say(self, text: str) -> None:
        """Let `text` be the prompt from the next frame on. Can be called from any thread. Raises ValueError on a text
        that `checked_prompt` refuses."""
        text = checked_prompt(text)
        with self._lock:
            self._waiting = text

    @property
    def can_say(self) -> bool:
        """Whether `say` can be used."""
        return True

    def unsay(self) -> None:
        """Forget what was said and has no frame yet."""
        with self._lock:
            self._waiting = None

    @property
    def waiting(self) -> str | None:
        """What was said and has no frame yet."""
        return self._waiting

    @property
    def prompts(self) -> list[tuple[int, str]]:
        """All prompts with the frames that they begin at, ascending: those of the schedule and those that were said."""
        return sorted((self._scheduled | self._said).items())

    @property
    def said(self) -> list[tuple[int, str]]:
        """The prompts that were said, with the frames that they began at."""
        return sorted(self._said.items())

    def schedule(self) -> PromptSchedule:
        """The prompts as a schedule, which makes the same frames again."""
        starts = [start for start, _ in self.prompts]
        ends = [*starts[1:], None]
        return PromptSchedule(
            tuple(PromptSegment(start, end, text) for (start, text), end in zip(self.prompts, ends, strict=True))
        )

    def begin(self, frame: int) -> None:
        """Take what was said, unless the prompt before it still fades in."""
        with self._lock:
            text = self._waiting
            if text is None or frame < self._free_from(frame):
                return
            self._waiting = None
        if text == self._text_at(frame):
            return  # it is said already
        self._said[frame] = text
        self._rebuild()
        self.on_change()

    def begin_again(self, frame: int) -> None:
        """After a step back to `frame`, find the frame for what was said since, before frames are taken from a journal:
        it has those of the earlier text."""
        if self._waiting is not None:
            while frame < self._free_from(frame):
                frame = self._free_from(frame)
            self.begin(frame)

    def take_back(self, frame: int) -> None:
        """Forget what was said for frames from `frame` on. Only between two frames."""
        self._said = {start: text for start, text in self._said.items() if start < frame}
        self._rebuild()

    def restore(self, said: Sequence[tuple[int, str]]) -> None:
        """Take prompts that were said in an earlier run, each with its frame. Only before the first frame."""
        self._said |= dict(said)
        self._rebuild()

    def _text_at(self, frame: int) -> str:
        return next(text for start, text in reversed(self.prompts) if start <= frame)

    def _free_from(self, frame: int) -> int:
        """The first frame at which a new prompt does not change how the one at `frame` faded in."""
        number = self.segment(frame)
        start = self.starts[number]
        return start if number == 0 or start == frame else start + self.segments[number].fade_in + 1

    def _rebuild(self) -> None:
        spans = blended_spans([start for start, _ in self.prompts], self._blend)
        super().__init__(
            [
                TextSegment(span.start, self._context(text), span.end or FOREVER, 1.0, span.fade_in, span.fade_out)
                for span, (_, text) in zip(spans, self.prompts, strict=True)
            ]
        )

    def _context(self, text: str) -> Tensor:
        if text not in self._contexts:
            self._contexts[text] = self._encode(text)
        return self._contexts[text]


class FixedTrack(SteeredTrack):
    """A track whose prompts cannot be changed, for a run that is only paused, stopped or taken back."""

    def __init__(self, track: TextTrack) -> None:
        super().__init__([(0, "")], lambda text: track.segments[0].context)
        TextTrack.__init__(self, track.segments)

    @property
    def can_say(self) -> bool:
        """Always false."""
        return False

    def say(self, text: str) -> None:
        """Raises ValueError, because these prompts cannot be changed."""
        raise ValueError(
            "the prompts of this run cannot be changed while it goes on; that needs prompts from a prompt schedule, "
            "none of them with an anchor or a cfg of its own"
        )

    def take_back(self, frame: int) -> None:
        """Does nothing, because nothing can be said."""

    def restore(self, said: Sequence[tuple[int, str]]) -> None:
        """Does nothing, because nothing can be said."""
