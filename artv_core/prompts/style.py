"""Writes a changed schedule in the style of the old text. Each prompt is written like a prompt of the old text, its
model. Everything else stays as it was.

Times in seconds are written in seconds again, so that they stay correct if the frames per second change.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from .grammar import read_one
from .pieces import (
    COMMENT,
    Piece,
    indentation,
    is_json,
    is_quoted,
    is_seconds,
    lead,
    moved,
    part,
    put,
    split_head,
    trail,
    without_commas,
)
from .prompt_schedule import PromptScheduleError
from .written import WrittenPrompt, WrittenSchedule

MAX_DECIMALS = 6
"""Most decimals of a time in seconds."""


class WantedPrompt(NamedTuple):
    """A prompt of the new schedule. `source` is the index of the old prompt that it replaces, None for a new prompt."""

    source: int | None
    start: int
    text: str


class Style:
    """The old text in pieces, from which the new text is built."""

    def __init__(self, before: WrittenSchedule, segment_frames: int, fps: float | None):
        self.segment_frames, self.fps = segment_frames, fps
        text, prompts = before.text, before.prompts
        self.opening, closing = before.braces or (-1, len(text))
        self.top, self.tail = text[: prompts[0].at], text[closing:]
        self.gaps = [text[one.stop : other.at] for one, other in pairwise(prompts)]
        self.gaps.append(text[prompts[-1].stop : closing])
        self.head, first_lead = split_head(self.top, self.opening)
        leads = [without_commas(first_lead), *map(lead, self.gaps[:-1])]
        self.pieces = [
            Piece(source, moved(prompt), text[prompt.at : prompt.stop], lead, trail(gap))
            for source, (prompt, lead, gap) in enumerate(zip(prompts, leads, self.gaps, strict=True))
        ]
        lone = len(prompts) == 1
        self.is_multiline = (
            "\n" in self.head if lone and before.braces else lone or any("\n" in g for g in self.gaps[:-1])
        )
        self.has_commas = bool(before.braces) or any("," in COMMENT.sub("", gap) for gap in self.gaps)
        self.has_commas |= lone and self.pieces[0].body.startswith(('"', "'"))
        self.is_json = is_json(text)

    def comments(self) -> list[str]:
        """All comments of the old text, in order."""
        return [comment for gap in [self.top, *self.gaps] for comment in COMMENT.findall(gap)]

    def allows_plain_lines(self, wanted: Sequence[WantedPrompt]) -> bool:
        """Whether the old prompts have no times, and the wanted ones need none."""
        plain = not self.pieces[0].prompt.timed
        return plain and all(prompt.start == index * self.segment_frames for index, prompt in enumerate(wanted))

    def written(self, wanted: Sequence[WantedPrompt], end: int | None, timed: bool) -> str | None:
        """The new text, or None if a prompt cannot be written in this style. The caller must check that it reads as
        wanted. `timed` says whether the prompts get times."""
        orphans = self.orphaned_comments(wanted)
        ends = [*(prompt.start for prompt in wanted[1:]), None]
        pieces = []
        for prompt, model, following in zip(wanted, self.models(wanted), ends, strict=True):
            body = _Form(model, self, timed).body(prompt, following, end if prompt is wanted[-1] else None)
            if body is None:
                return None
            own = model if prompt.source is not None else model._replace(lead=indentation(model.lead), trail="")
            lead = (
                "".join(f"{indentation(own.lead)}{comment}\n" for comment in orphans.get(prompt.source, [])) + own.lead
            )
            pieces.append(Piece(prompt.source, self.read(body), body, lead, own.trail))
        parts = [self.beginning(pieces[0]), pieces[0].body]
        for before, piece in pairwise(pieces):
            parts += [self.between(before, piece), piece.body]
        return "".join([*parts, self.ending(pieces[-1], orphans.get(len(self.pieces), [])), self.tail])

    def read(self, body: str) -> WrittenPrompt:
        """Read the text of a single prompt."""
        return read_one(body, segment_frames=self.segment_frames, fps=self.fps, name="text")

    def seconds(self, frame: int) -> str | None:
        """A frame as a time in seconds, with as few decimals as possible. None if it needs too many, or without
        `fps`."""
        if self.fps is None:
            return None
        fps = Fraction(str(self.fps))
        for decimals in range(MAX_DECIMALS + 1):
            number = round(frame / fps, decimals)
            if math.floor(number * fps + Fraction(1, 2)) == frame:
                return f"{float(number):.{decimals}f}s"
        return None

    def models(self, wanted: Sequence[WantedPrompt]) -> Iterator[Piece]:
        """For each prompt, the piece whose style it gets: its own, or for a new prompt that of the prompt before."""
        first = next((prompt.source for prompt in wanted if prompt.source is not None), 0)
        model = self.pieces[first]
        for prompt in wanted:
            model = model if prompt.source is None else self.pieces[prompt.source]
            yield model

    def orphaned_comments(self, wanted: Sequence[WantedPrompt]) -> dict[int | None, list[str]]:
        """Comments of removed prompts, by the index of the next prompt that stays (the number of prompts: the end)."""
        stays = {prompt.source for prompt in wanted}
        orphans: dict[int | None, list[str]] = {}
        gone: list[str] = []
        for piece in self.pieces:
            if piece.source not in stays:
                gone += COMMENT.findall(piece.lead) + COMMENT.findall(piece.trail)
            elif gone:
                orphans[piece.source], gone = gone, []
        return {**orphans, len(self.pieces): gone}

    def beginning(self, piece: Piece) -> str:
        """The text before the first prompt."""
        if piece.source == 0:
            return self.top
        lead = piece.lead.lstrip("\n")
        if self.opening < 0:
            return self.head + lead
        above = "".join(f"{comment}\n" for comment in COMMENT.findall(lead))
        lead = indentation(lead) if self.head.endswith("\n") else ""
        return self.head[: self.opening] + above + self.head[self.opening :] + lead

    def between(self, before: Piece, piece: Piece) -> str:
        """The text between two prompts: the old text if they were neighbours before."""
        if piece.source and before.source == piece.source - 1:
            return self.gaps[before.source]
        on_one_line = not self.is_multiline and before.is_closed and not before.trail and "\n" not in piece.lead
        keyed = before.prompt.end_at is None
        comma = "," if before.is_closed and (self.has_commas or (on_one_line and keyed)) else ""
        return f"{comma} " if on_one_line else f"{comma}{before.trail}\n{piece.lead}"

    def ending(self, last: Piece, orphans: Sequence[str]) -> str:
        """The text after the last prompt."""
        gap = self.gaps[-1]
        if last.source == len(self.pieces) - 1:
            return gap
        comma = "," if last.is_closed and "," in gap.partition("\n")[0].partition("#")[0] else ""
        comments = last.trail + "".join(f"\n{comment}" for comment in orphans)
        rest = f"\n{lead(gap)}" if "\n" in gap or (comments and self.tail) else ""
        return comma + comments + rest


class _Form:
    """Writes one prompt in the style of `model`."""

    def __init__(self, model: Piece, style: Style, timed: bool):
        self.like, self.written = model.prompt, model.body
        self.style, self.timed = style, timed

    def body(self, prompt: WantedPrompt, following: int | None, end: int | None) -> str | None:
        """The first form of the prompt that reads as wanted, or None. `following` is the start of the next prompt,
        `end` the end of the range if this is the last prompt."""
        for body in self.bodies(prompt, following, end):
            with suppress(PromptScheduleError):
                read = self.style.read(body)
                starts = not self.timed or read.start == prompt.start
                if read.at == 0 and starts and read.text == prompt.text and read.timed == self.timed:
                    return body
        return None

    def bodies(self, prompt: WantedPrompt, following: int | None, end: int | None) -> Iterator[str]:
        if not self.timed:
            yield prompt.text
            return
        before, after = self.around(prompt.start, following, end)
        yield from (before + text + after for text in self.texts(prompt.text))

    def around(self, start: int, following: int | None, end: int | None) -> tuple[str, str]:
        """The characters before and after the prompt's text."""
        like, written = self.like, self.written
        before, after = written[: like.text_at[0]], written[like.text_at[1] :]
        if like.end_at is None and end is not None:
            return f"[{start}-{end}: ", "]"
        if like.time_at is None:
            return f"{start}: ", ""
        if like.end_at is None:
            return put(before, (like.time_at, self.time(start))), after
        open_end = like.end is None and following is not None
        times = self.times(start, None if open_end else end if following is None else following)
        return put(before, (like.time_at, times[0]), (like.end_at, times[1])), after

    def time(self, start: int) -> str:
        """The start as it is written: unchanged if it is the model's, else in the model's unit."""
        assert self.like.time_at is not None
        token = part(self.written, self.like.time_at)
        if start == self.like.start:
            return token
        return (self.style.seconds(start) if is_seconds(token) else None) or str(start)

    def times(self, start: int, end: int | None) -> tuple[str, str]:
        """Both times of a range, in the same unit."""
        assert self.like.time_at is not None
        assert self.like.end_at is not None
        tokens = part(self.written, self.like.time_at), part(self.written, self.like.end_at)
        if (start, end) == (self.like.start, self.like.end):
            return tokens
        frames = str(start), "" if end is None else str(end)
        if not any(map(is_seconds, tokens)):
            return frames
        seconds = self.style.seconds(start), "" if end is None else self.style.seconds(end)
        kept = (
            tokens[0] if start == self.like.start and (start == 0 or is_seconds(tokens[0])) else seconds[0],
            tokens[1] if end == self.like.end and is_seconds(tokens[1]) else seconds[1],
        )
        return frames if None in kept else (kept[0] or "", kept[1] or "")

    def texts(self, text: str) -> Iterator[str]:
        """Possible ways to write a text, best first. Some may not read back as the same text."""
        written = part(self.written, self.like.text_at)
        if text == self.like.text and self.like.timed:
            yield written
        mark = written[0] if self.like.timed and is_quoted(self.like, self.written) else None
        if mark is None:
            yield text
            yield re.sub(r"[\[\]]", r"\\\g<0>", text)
        escaped = json.dumps(text, ensure_ascii=False)
        if mark == "'":
            escaped = "'" + escaped[1:-1].replace('\\"', '"').replace("'", "\\'") + "'"
        plain = (mark or '"') + text.replace(mark or '"', "\\" + (mark or '"')) + (mark or '"')
        yield from (escaped, plain) if self.style.is_json else (plain, escaped)
