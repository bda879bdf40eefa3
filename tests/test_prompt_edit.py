import json
import random
import re

import pytest

from artv_core.prompts.answering import answer_schedule
from artv_core.prompts.grammar import MAX_FRAME, MAX_PROMPTS, parse_prompt_schedule
from artv_core.prompts.prompt_schedule import PromptSchedule, PromptScheduleError, PromptSegment
from artv_core.prompts.rewriting import rewrite_schedule
from artv_core.prompts.style import WantedPrompt
from tests.counted import counted_calls

SETTINGS = {"segment_frames": 16, "fps": 8.0}


def rewritten(text: str, *wanted: tuple[int | None, int, str], end: int | None = None, **settings: object) -> str:
    return rewrite_schedule(text, [WantedPrompt(*prompt) for prompt in wanted], end, **{**SETTINGS, **settings})


def segments_of(text: str) -> list[tuple[int, int | None, str]]:
    return [(s.start, s.end, s.text) for s in parse_prompt_schedule(text, **SETTINGS).segments]


# What is kept

JSON = '{\n  "0": "a fox",\n  "24": "a \\u0066ox asleep",\n  "32": "a hare"\n}\n'
COMMENTED = """\
# My film

# in the morning
"0": "a fox",   # red

  # at noon
"24": 'a fox asleep', # grey
"32": "a hare"  # the last
# the end
"""


@pytest.mark.parametrize(
    ("text", "wanted", "expected"),
    [
        (JSON, [(0, 0, "a fox"), (1, 20, "a fox asleep"), (2, 32, "a hare")], JSON.replace("24", "20")),
        (
            JSON,
            [(2, 0, "a hare"), (0, 8, "a fox"), (1, 32, "a fox asleep")],
            '{\n  "0": "a hare",\n  "8": "a fox",\n  "32": "a \\u0066ox asleep"\n}\n',
        ),
        (
            '{"0": "a", "24": "b"}',
            [(0, 0, "a"), (None, 12, 'say "a"'), (1, 24, "b")],
            '{"0": "a", "12": "say \\"a\\"", "24": "b"}',
        ),
        ('{"0": "a"}', [(0, 0, "a"), (None, 12, "b")], '{"0": "a", "12": "b"}'),
        ("0: a fox\n24 = 'b'", [(0, 0, "a fox"), (1, 20, "it's b")], "0: a fox\n20 = 'it\\'s b'"),
        ("0: a fox\n24: b", [(0, 0, "a (fox:1.2), red"), (1, 24, "b")], "0: a (fox:1.2), red\n24: b"),
        ("0: a fox\n24: b", [(0, 0, "a, 24: b"), (1, 24, "b")], '0: "a, 24: b"\n24: b'),
        ("0: a fox\n24: b", [(1, 0, "b"), (0, 24, "a\nfox")], '0: b\n24: "a\\nfox"'),
        ("0\uff1aa\n24\uff1ab", [(0, 0, "a"), (1, 20, "b"), (None, 32, "c")], "0\uff1aa\n20\uff1ab\n32\uff1ac"),
        ("[0-24\uff1aa] [24-\uff1ab]", [(0, 0, "a"), (1, 12, "b")], "[0-12\uff1aa] [12-\uff1ab]"),
        ("0: a \\(fox", [(0, 0, 'a \\(fox, "red"')], '0: a \\(fox, "red"'),
        ('"0": "a \\(fox"', [(0, 0, "a \\(fox, red")], '"0": "a \\(fox, red"'),
        ("[0-24: a] [24-48: b]", [(0, 0, "a"), (1, 12, "b")], "[0-12: a] [12-: b]"),
        ("[0-24: a]\n[24-: b]", [(0, 0, "a"), (1, 24, "b"), (None, 36, "c")], "[0-24: a]\n[24-: b]\n[36-: c]"),
        ("[0-24: a] [24-: b]", [(1, 0, ":]"), (0, 9, "a")], "[0-: :\\]] [9-: a]"),
        ("[0s-3s: a] [3s-: b]", [(0, 0, "a"), (1, 25, "b")], "[0s-3.1s: a] [3.1s-: b]"),
        ("[0-3s: a] [3s-6s: b]", [(1, 0, "b"), (0, 24, "a")], "[0s-3s: b] [3s-: a]"),
        ("0: a\n3s: b", [(0, 0, "a"), (1, 12, "b")], "0: a\n1.5s: b"),
        ("a\n\n# then\nb\n", [(1, 0, "b"), (0, 16, "a")], "# then\nb\na\n"),
        ("a\n\n# then\nb\n", [(0, 0, "a"), (1, 20, "b")], "0: a\n\n# then\n20: b\n"),
        ("a\nb", [(0, 0, "a"), (1, 16, '"b')], 'a\n"b'),
        ("a\nb", [(0, 0, "# a"), (1, 16, "b")], "0: # a\n16: b"),
        (COMMENTED, [(0, 0, "a fox"), (1, 20, "a fox asleep"), (2, 32, "a hare")], COMMENTED.replace("24", "20")),
        (
            COMMENTED,
            [(1, 0, "a fox asleep"), (2, 8, "a hare"), (0, 16, "a fox")],
            """\
# My film

  # at noon
"0": 'a fox asleep', # grey
"8": "a hare",  # the last
# in the morning
"16": "a fox"   # red
# the end
""",
        ),
        (
            COMMENTED,
            [(0, 0, "a fox"), (2, 24, "a hare")],
            """\
# My film

# in the morning
"0": "a fox",   # red
# at noon
# grey
"24": "a hare"  # the last
# the end
""",
        ),
        ("0: a\r\n24: b", [(1, 0, "b"), (0, 24, "a")], "0: b\r\n24: a"),
    ],
)
def test_only_what_was_changed_is_written_anew(text, wanted, expected):
    assert rewritten(text, *wanted) == expected


def test_the_end_of_the_last_range_is_written_and_removed():
    text = "[0-24: a]\n[24-48: b]"
    same = [(0, 0, "a"), (1, 24, "b")]
    assert rewritten(text, *same, end=60) == "[0-24: a]\n[24-60: b]"
    assert rewritten(text, *same) == "[0-24: a]\n[24-: b]"
    assert rewritten('"0": "a", "24": "b"', *same, end=60) == '"0": "a", [24-60: "b"]'
    assert rewritten("a\nb", (0, 0, "a"), (1, 16, "b"), end=60) == "0: a\n[16-60: b]"


def test_seconds_mean_the_frame_whatever_the_frames_per_second():
    for fps in (0.01, 1, 7.3, 8, 23.976, 29.97, 240, 1000):
        for frame in (1, 2, 3, 47, 48, 1001, 99_999):
            text = rewritten("0: a\n3000s: b", (0, 0, "a"), (1, frame, "b"), fps=fps)
            assert text.endswith("s: b")
            assert parse_prompt_schedule(text, segment_frames=16, fps=fps).segments[1].start == frame


# Anything at all

NASTY = [
    "a",
    "fox",
    '"',
    "'",
    "\\",
    "[",
    "]",
    "{",
    "}",
    "#",
    ",",
    ":",
    "=",
    " ",
    "24",
    "0",
    "3s",
    "\n",
    "\t",
    "\\n",
    "é",
]
NASTY += [
    "\U0001f98a",
    "\u2028",
    "\ud83e",
    "\\u0041",
    "“",
    "--",
    "-",
    ", 24: b",
    '", "3": "',
    "]]",
    "\\]",
    "\x1c",
    "\r",
]


def random_text(dice: random.Random) -> str:
    while True:
        text = "".join(dice.choice(NASTY) for _ in range(dice.randint(1, 8))).strip()
        if text:
            return text


def random_comment(dice: random.Random) -> str:
    return "#! " + re.sub(r"[\n\r]", "", random_text(dice)) + f" {dice.random()}"


def random_gap(dice: random.Random, same_line: bool) -> str:
    """What may stand between two prompts. On one line with the first only after one that allows it."""
    lines = [dice.choice(["", " ", "  ", random_comment(dice)]) for _ in range(dice.choice([0, 0, 1, 2, 3]))]
    end = dice.choice(["", ", ", "  ", ",  " + random_comment(dice)]) if same_line else dice.choice(["", "  "])
    return "\n".join([end, *lines, dice.choice(["", "  "])])


def random_time(dice: random.Random, frame: int) -> str:
    return dice.choice([str(frame), str(frame), f"{frame / 8}s"])


def random_prompt(dice: random.Random, form: str, start: int, end: int | None) -> str:
    text = random_text(dice)
    quoted = json.dumps(text, ensure_ascii=False)
    bare = re.sub(r"[\[\]\"'\n\r#,:=]", "", text).strip() or "b"
    time = random_time(dice, start)
    if form == "line":
        return bare
    if form == "range":
        seconds = dice.random() < 0.5
        first, last = (f"{f / 8}s" if seconds else str(f) for f in (start, end or 0))
        return f"[{first}-{'' if end is None else last}: {dice.choice([bare, quoted])}]"
    return {"json": f'"{time}": {quoted}', "bare": f"{time}: {bare}", "equals": f"{time} = {quoted}"}[form]


def random_schedule(dice: random.Random) -> str:
    count = dice.randint(1, 5)
    starts = [0, *sorted(dice.sample(range(1, 200), count - 1))]
    plain = dice.random() < 0.25
    braces = not plain and dice.random() < 0.3
    lines = "" if braces or dice.random() < 0.5 else random_gap(dice, True).lstrip(", ").replace(",", "")
    parts = [lines]
    for index, start in enumerate(starts):
        last = index == count - 1
        end = starts[index + 1] if not last else dice.choice([None, start + 9])
        forms = ["line"] if plain else ["json", "json", "bare", "equals", *([] if braces and not index else ["range"])]
        form = dice.choice(forms)
        written = random_prompt(dice, form, start, end)
        if form in ("json", "equals") and dice.random() < 0.3 and not last:
            parts += [written, ", "]
        else:
            parts += [written, random_gap(dice, form in ("json", "equals", "range"))]
    text = "".join(parts)
    return "{" + text + "\n}" if braces else text


def random_edit(dice: random.Random, schedule: PromptSchedule) -> tuple[list[WantedPrompt], int | None]:
    """What hands can do to a timeline, and more."""
    prompts = [(index, s.text) for index, s in enumerate(schedule.segments)]
    for _ in range(dice.choice([0, 1, 1, 2, 5])):
        index = dice.randrange(len(prompts))
        action = dice.choice(["text", "new", "remove", "move"])
        if action == "text":
            prompts[index] = (prompts[index][0], random_text(dice))
        elif action == "new":
            prompts.insert(index + 1, (None, random_text(dice)))
        elif action == "remove" and len(prompts) > 1:
            del prompts[index]
        elif action == "move":
            prompts.insert(dice.randrange(len(prompts)), prompts.pop(index))
    starts = [segment.start for segment in schedule.segments]
    if len(prompts) != len(starts) or dice.random() < 0.5:
        starts = [0, *sorted(dice.sample(range(1, 200), len(prompts) - 1))]
    if dice.random() < 0.2:
        starts = [16 * index for index in range(len(prompts))]
    end = schedule.segments[-1].end
    end = dice.choice([None, starts[-1] + 5]) if end is None or end <= starts[-1] or dice.random() < 0.3 else end
    return [WantedPrompt(s, start, text) for start, (s, text) in zip(starts, prompts, strict=True)], end


def comments_of(text: str) -> list[str]:
    """The comments that `random_comment` made: each ends with a number of its own."""
    return sorted(re.findall(r"#![^\n]* 0\.\d+(?:e-\d+)?(?=\n|\Z)", text))


def check_random_edit(dice: random.Random) -> None:
    text = random_schedule(dice)
    try:
        before = parse_prompt_schedule(text, **SETTINGS)
    except PromptScheduleError:
        return
    same = [WantedPrompt(index, s.start, s.text) for index, s in enumerate(before.segments)]
    assert rewrite_schedule(text, same, before.segments[-1].end, **SETTINGS) == text
    wanted, end = random_edit(dice, before)
    ends = [*(prompt.start for prompt in wanted[1:]), end]
    aim = PromptSchedule(tuple(PromptSegment(p.start, e, p.text) for p, e in zip(wanted, ends, strict=True)))
    changed = rewrite_schedule(text, wanted, end, **SETTINGS)
    assert parse_prompt_schedule(changed, **SETTINGS) == aim
    assert comments_of(changed) == comments_of(text), changed
    again = [WantedPrompt(index, prompt.start, prompt.text) for index, prompt in enumerate(wanted)]
    assert rewrite_schedule(changed, again, end, **SETTINGS) == changed


def test_any_edit_of_any_text_reads_as_wanted_and_loses_no_comment():
    hypothesis = pytest.importorskip("hypothesis")

    @hypothesis.settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @hypothesis.given(hypothesis.strategies.randoms(use_true_random=False))
    def edit(dice):
        check_random_edit(dice)

    edit()


def test_most_random_texts_are_schedules_and_most_edits_keep_their_style():
    dice, read, kept = random.Random(0), 0, 0
    for _ in range(300):
        text = random_schedule(dice)
        try:
            before = parse_prompt_schedule(text, **SETTINGS)
        except PromptScheduleError:
            continue
        read += 1
        wanted, end = random_edit(dice, before)
        changed = rewrite_schedule(text, wanted, end, **SETTINGS)
        ends = [*(prompt.start for prompt in wanted[1:]), end]
        aim = PromptSchedule(tuple(PromptSegment(p.start, e, p.text) for p, e in zip(wanted, ends, strict=True)))
        kept += changed == text or not changed.endswith(aim.canonical())
    assert read > 200
    assert kept > 0.9 * read


def test_the_work_of_a_long_schedule_grows_with_its_length():
    text = "\n".join(f"# {frame}\n{frame}: prompt {frame}" for frame in range(5000))
    wanted = [WantedPrompt(frame or None, frame, f"prompt {frame}") for frame in range(5000)]
    with counted_calls() as calls:
        changed = rewrite_schedule(text, wanted, **SETTINGS)
    assert calls.number < 1000 * 5000
    assert changed.count("#") == 5000


# What cannot be


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([], "no prompt is wanted"),
        ([(0, 1, "a")], "starts at frame 1; it must start at frame 0"),
        ([(0, 0, "a"), (1, 0, "b")], "frame 0 does not come after frame 0"),
        ([(0, 0, " "), (1, 24, "b")], "the prompt of frame 0 is empty"),
        ([(0, 0, "a --neg b")], "got --neg"),
        ([(0, 0, "a"), (0, 24, "a")], "two wanted prompts have the same source"),
        ([(2, 0, "a")], "source 2; the text has the prompts 0 to 1"),
        ([(0, 0, "a"), (1, 48, "b")], "but the video ends with frame 47"),
    ],
)
def test_what_cannot_be_wanted_is_said_in_one_line(wanted, message):
    with pytest.raises(ValueError, match=message) as caught:
        rewritten("0: a\n24: b", *wanted, num_frames=48)
    assert "\n" not in str(caught.value)


def test_a_text_that_cannot_be_read_is_not_changed():
    with pytest.raises(PromptScheduleError, match="line 2, column 1: frame 0 does not come after"):
        rewritten("0: a\n0: b", (0, 0, "a"))


# What the page is told


def question(text: str, /, **more: object) -> dict[str, object]:
    return {"text": text, "segment_frames": 16, "fps": 8, "num_frames": 0, "blend_frames": 0, **more}


def test_the_page_is_told_segments_and_spans():
    answer = answer_schedule(question("0: a\n 3s: b", blend_frames=4))
    assert answer["text"] == "0: a\n 3s: b"
    assert answer["segments"] == [
        {"start": 0, "end": 24, "text": "a", "line": 1, "column": 1},
        {"start": 24, "end": None, "text": "b", "line": 2, "column": 2},
    ]
    assert answer["spans"] == [
        {"start": 0, "end": 28, "fade_in": 0, "fade_out": 4},
        {"start": 24, "end": None, "fade_in": 4, "fade_out": 0},
    ]


def test_the_page_is_told_of_words_that_look_like_a_time():
    assert answer_schedule(question("0: a\n 3s: b"))["slips"] == []
    slip = {"line": 2, "column": 1, "got": "16; b", "time": "16", "meant": "16: b", "begins": True}
    assert answer_schedule(question("a\n16; b"))["slips"] == [slip]
    assert [one["line"] for one in answer_schedule(question("1; a\n2; a\n3; a\n4; a"))["slips"]] == [1, 2, 3]


def test_the_page_is_told_where_a_text_is_wrong():
    answer = answer_schedule(question("0: a\n 0: b"))
    assert set(answer) == {"text", "error"}
    assert answer["error"]["message"].startswith("frame 0 does not come after")
    assert (answer["error"]["line"], answer["error"]["column"]) == (2, 2)
    settings = answer_schedule(question("0: a", fps=0))["error"]
    assert (settings["line"], settings["column"]) == (None, None)
    assert "0 frames per second" in settings["message"]


def test_the_page_is_told_what_cannot_be_a_prompt():
    error = answer_schedule(question("0: a\n24: (b:`pw_a`)"))["error"]
    assert "prompts cannot have expressions" in error["message"]
    assert (error["line"], error["column"]) == (2, 1)
    wanted = {"prompts": [{"source": 0, "start": 0, "text": "(a:`pw_a`)"}], "end": None}
    answer = answer_schedule(question("0: a", wanted=wanted))
    assert answer["text"] == "0: a"
    assert "prompts cannot have expressions" in answer["error"]["message"]


def test_the_page_gets_the_text_it_wants():
    wanted = {
        "prompts": [{"source": 1, "start": 0, "text": "b"}, {"source": None, "start": 8, "text": "c"}],
        "end": None,
    }
    answer = answer_schedule(question("0: a\n24: b", wanted=wanted))
    assert answer["text"] == "0: b\n8: c"
    assert [segment["text"] for segment in answer["segments"]] == ["b", "c"]


def test_the_page_is_told_what_cannot_be_wanted():
    wanted = {"prompts": [{"source": 0, "start": 0, "text": "a --neg b"}], "end": None}
    answer = answer_schedule(question("0: a", wanted=wanted))
    assert answer["text"] == "0: a"
    assert answer["error"]["message"].startswith("got --neg")
    assert (answer["error"]["line"], answer["error"]["column"]) == (None, None)


PROMPT = {"source": 0, "start": 0, "text": "a"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": 3}, "text is 3; a text is needed"),
        ({"text": None}, "text is null"),
        ({"fps": "8"}, "fps is str"),
        ({"fps": True}, "fps is true"),
        ({"fps": float("nan")}, "fps is NaN"),
        ({"segment_frames": 1.5}, r"segment_frames is 1\.5; accepted are whole numbers"),
        ({"num_frames": -1}, "num_frames is -1"),
        ({"blend_frames": MAX_FRAME + 1}, f"blend_frames is {MAX_FRAME + 1}"),
        ({"fps": 10**400}, r"fps is 10000000000000000000\.\.\."),
        ({"num_frames": 10**400}, r"num_frames is 10000000000000000000\.\.\."),
        ({"wanted": []}, "wanted is not valid"),
        ({"wanted": {"prompts": {}}}, "wanted is not valid"),
        ({"wanted": {"prompts": [3]}}, "a wanted prompt is 3"),
        ({"wanted": {"prompts": [{**PROMPT, "start": "0"}]}}, "start is str"),
        ({"wanted": {"prompts": [{**PROMPT, "source": -1}]}}, "source is -1"),
        ({"wanted": {"prompts": [{**PROMPT, "text": ["a"]}]}}, "text is list"),
        ({"wanted": {"prompts": [PROMPT], "end": 1.5}}, r"end is 1\.5"),
        ({"wanted": {"prompts": [PROMPT] * (MAX_PROMPTS + 1)}}, "accepted are up to"),
    ],
)
def test_bad_questions_are_refused_with_one_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        answer_schedule(question("0: a", **change))
    assert "\n" not in str(caught.value)
