import json
import random
import time
from contextlib import suppress

import pytest

from artv_core.method.text_track import PromptSpan
from artv_core.prompts.grammar import MAX_CHARACTERS, parse_prompt_schedule, parse_prompts
from artv_core.prompts.prompt_file import MAX_FILE_BYTES, read_prompt_file
from artv_core.prompts.prompt_schedule import PromptSchedule, PromptScheduleError, PromptSegment, blended_spans
from tests.counted import counted_calls

FOX = [(0, "a fox"), (24, "a fox asleep")]


def schedule_of(*segments: tuple[int, int | None, str]) -> PromptSchedule:
    return PromptSchedule(tuple(PromptSegment(*segment) for segment in segments))


# Syntax


def test_lines_follow_one_another_in_segments():
    text = "a fox\r\n\n# not this one\n  a fox, asleep: softly  \na hare\n"
    assert parse_prompts(text, 16) == [(0, "a fox"), (16, "a fox, asleep: softly"), (32, "a hare")]
    assert parse_prompts("a (red:1.2) fox | {day|night} [dawn]\r7 foxes", 4) == [
        (0, "a (red:1.2) fox | {day|night} [dawn]"),
        (4, "7 foxes"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "0: a fox\n24: a fox asleep",
        '"0": "a fox",\n"24": "a fox asleep",',
        '"0": "a fox",\n"24": "a fox asleep"',
        '"0": "a fox", "24": "a fox asleep"',
        '"0":"a fox","24":"a fox asleep",,',
        "'0': 'a fox', '24': 'a fox asleep',",
        '"0" : "a fox"\r\n"24" : "a fox asleep"\r\n',
        '0 = "a fox"\n24 = "a fox asleep"',
        '0: "a fox", 24: "a fox asleep"',
        "0=a fox\n\n# then\n 24 :a fox asleep ",
        '0: a fox\n"24": "a fox asleep"',
        '"0": " a fox ", # at first\n"24": "a fox asleep" # then',
        '{"0": "a fox", "24": "a fox asleep"}',
        '\n{\n  "0": "a fox",\n  "24": "a fox asleep",\n}\n',
        '# deforum\n{ 0: "a fox"\n24: a fox asleep },',
        "0s: a fox\n3s: a fox asleep",
        '"0": "a fox", "3s": "a fox asleep"',
        "2.99S = a fox asleep".join(["0: a fox\n", ""]),
        "[0s-3s: a fox]\n[3s-: a fox asleep]",
        "[0-3s: a fox] [3s-: a fox asleep]",
        "[ 0 - 24 : a fox ],[24-:a fox asleep]",
        '[0-24: "a fox"]\n24: a fox asleep',
        "[0\u201324: a fox], '24': 'a fox asleep'",
        "0\uff1aa fox\n24\uff1a a fox asleep",
        '{"0"\uff1a"a fox", "24" \uff1a "a fox asleep"}',
        "[0-24\uff1aa fox] [3s- \uff1a a fox asleep]",
    ],
)
def test_time_may_be_named_in_the_styles_of_other_schedulers(text):
    assert parse_prompts(text, 16, fps=8.0) == FOX
    assert parse_prompt_schedule(text, segment_frames=16, fps=8) == schedule_of(
        (0, 24, "a fox"), (24, None, "a fox asleep")
    )


def test_a_range_may_end_the_schedule():
    expected = schedule_of((0, 24, "a fox"), (24, 48, "a fox asleep"))
    for text in ("[0s-3s: a fox]\n[3s-6s: a fox asleep]", "[0-24: a fox][24-48: a fox asleep]"):
        assert parse_prompt_schedule(text, segment_frames=16, fps=8, num_frames=48) == expected
        assert parse_prompt_schedule(text, segment_frames=16, fps=8, num_frames=100) == expected


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (r'"a \"red\" fox \\ hare"', r'a "red" fox \ hare'),
        (r"'a fox\'s \"tail\"'", 'a fox\'s "tail"'),
        (r'"a fox \(vulpes\)"', r"a fox \(vulpes\)"),
        (r'"a\nfox\/\u0066\ud83e\udd8a"', "a\nfox/f\U0001f98a"),
        (r'"a fox \ud83e."', "a fox \ufffd."),
        (r'"a \users \u12 fox"', r"a \users \u12 fox"),
        ('"a fox, 24: # and [a] hare"', "a fox, 24: # and [a] hare"),
        ("a fox # 1, \"wild\", 16:9 \\ 'red'", "a fox # 1, \"wild\", 16:9 \\ 'red'"),
        ("a fox,", "a fox,"),
        ("\u0663: b", "\u0663: b"),
    ],
)
def test_what_a_prompt_may_hold(written, text):
    assert parse_prompts(f"0: {written}", 16) == [(0, text)]


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("a [red] fox", "a [red] fox"),
        (r"a fox :\] \(red\)", r"a fox :] \(red\)"),
        ('"a fox :]"', "a fox :]"),
        ("a fox, 24: b", "a fox, 24: b"),
    ],
)
def test_what_brackets_may_hold(written, text):
    assert parse_prompts(f"[0-24: {written}]", 16) == [(0, text)]


@pytest.mark.parametrize(
    ("seconds", "fps", "frame"),
    [("1", 8, 8), ("0.1", 10, 1), ("0.5", 3, 2), ("1.5", 23.976, 36), ("1", 29.97, 30), ("2.5", 1, 3), ("0.01", 99, 1)],
)
def test_seconds_are_the_nearest_frame(seconds, fps, frame):
    assert parse_prompts(f"0: a\n{seconds}s: b", 16, fps=fps)[1].start == frame


def test_segments_know_where_they_were_written():
    text = '# foxes\r\n"0": "a", "8": "b",\r\n\r\n  16 = c\n[24-32: d] [32-40: e]\n'
    places = [(s.start, s.line, s.column) for s in parse_prompt_schedule(text, segment_frames=16).segments]
    assert places == [(0, 2, 1), (8, 2, 11), (16, 4, 3), (24, 5, 1), (32, 5, 12)]
    places = [
        (s.line, s.column) for s in parse_prompt_schedule("{\n '0': 'a',\n\t'8': 'b'}", segment_frames=16).segments
    ]
    assert places == [(2, 2), (3, 2)]


def test_text_before_and_after_every_prompt():
    schedule = parse_prompt_schedule("0: a fox\n24: a hare", segment_frames=16)
    around = schedule.surrounded(" a photo of ", ", at dawn\n")
    assert [s.text for s in around.segments] == ["a photo of a fox, at dawn", "a photo of a hare, at dawn"]
    assert schedule.surrounded("", " ") == schedule
    assert schedule.surrounded(app_text="running").segments[0].text == "a fox running"
    assert [(s.line, s.column) for s in around.segments] == [(1, 1), (2, 1)]


# Errors


@pytest.mark.parametrize(
    "text",
    [
        "[dawn] a fox",
        '["noir"] a fox',
        "[[a fox]] asleep",
        "[{day|night}] a fox",
        "- a fox",
        "a fox ` a hare",
        "a pw_able fox",
        "\uff17\u53ea\u72d0\u72f8",
        "\u200f\u062b\u0639\u0644\u0628",
        "a fox\uff1aasleep",
    ],
)
def test_prompts_that_only_look_like_something_else(text):
    assert parse_prompts(text, 16) == [(0, text)]


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("", 1, 1, "contains no prompt"),
        ("\n \n", 1, 1, "contains no prompt"),
        ("# only a comment\n,", 1, 1, "contains no prompt"),
        ("{ }", 1, 1, "contains no prompt"),
        ("\n  5: a fox", 2, 3, "first prompt starts at frame 5; it must start at frame 0"),
        ("[1s-3s: a fox]", 1, 1, "must start at frame 0"),
        ("0: a fox\n\n8: b\n8: c", 4, 1, "frame 8 does not come after frame 8"),
        ("0: a fox\n8: b\n 4: c", 3, 2, "frame 4 does not come after frame 8"),
        ("0: a\n0.01s: b", 2, 1, "frame 0 does not come after frame 0"),
        ("[0-24: a] [16-48: b]", 1, 11, "frame 16 is still in the previous range, 0-24"),
        ("[0-24: a]\n[24-48: b]\n[8-16: c]", 3, 1, "frame 8 does not come after frame 24"),
        ("[0-24: a]\n[30-48: b]", 2, 1, "frames 24 to 29 have no prompt"),
        ("[0-24: a]\n  30: b", 2, 3, "frames 24 to 29 have no prompt"),
        ("[0-24: a]\n[24-24: b]", 2, 1, "starts at frame 24 and ends at frame 24; it must end later"),
        ("[0-24: a]\n[24-4s: b]", 2, 1, "got 24 to 4s; accepted are two frames or two seconds"),
        ("[0-24 a fox]", 1, 1, "got '[0-24 a fox]'; a range is written"),
        ("[24: a fox]", 1, 1, "a range is written"),
        ("[0-24: a fox", 1, 1, "bracket is not closed on its line"),
        ("[0-24: a\nfox]", 1, 1, "bracket is not closed on its line"),
        ("[0-24: a [red fox]", 1, 1, "bracket is not closed on its line"),
        ('[0-24: "a fox" asleep]', 1, 16, "got 'asleep]'; accepted is ] after the closing quote"),
        ("[0-24: a] asleep", 1, 11, "or none has"),
        ("[-1s-3s: a]", 1, 2, "got '-1s' as a time"),
        ("a fox\n16: a fox asleep", 2, 1, "or none has"),
        ("# foxes\n0: a fox\na fox asleep", 3, 1, "or none has"),
        ("0: a fox\n8:", 2, 1, "prompt of frame 8 is empty"),
        ('0: " "', 1, 1, "prompt of frame 0 is empty"),
        ("[0-8: ]", 1, 1, "prompt of frame 0 is empty"),
        ('"0": a fox', 1, 6, "got 'a fox'; accepted is a prompt in quotes"),
        ('"0": a fox\n', 1, 6, "got 'a fox'; accepted is a prompt in quotes"),
        ('"0": \n"a fox"', 1, 6, "got the end of the line; accepted is a prompt in quotes"),
        ('"0": "a fox', 1, 6, 'this quote is not closed on its line; put " after the prompt'),
        ('"0": "a fox,\n"24": "b"', 1, 6, "this quote is not closed on its line"),
        ("0: 'tis a fox", 1, 4, "this quote is not closed on its line; put ' after the prompt"),
        ('0: "a fox\\"', 1, 4, "this quote is not closed on its line"),
        ("'0': 'a fox's tail'", 1, 13, 'got "s tail\'"; accepted is a comma or a new line'),
        ('"0": "a fox" "24": "b"', 1, 14, "accepted is a comma or a new line after the closing quote"),
        ("0: a fox, 24: b", 1, 11, "got 24 on another prompt's line"),
        ("0: a fox, '24': 'b'", 1, 11, "got '24' on another prompt's line"),
        ("0: a\n99999999999: b", 2, 1, "got '99999999999', which is beyond"),
        ("0: a\n" + "9" * 5000 + ": b", 2, 1, "which is beyond the last frame that is accepted, 1000000000"),
        ("0: a\n1000000000s: b", 2, 1, "which is beyond"),
        ("[0-99999999999: a]", 1, 4, "which is beyond"),
        ("1.5: a fox", 1, 1, "got 1.5 as a frame; accepted are whole numbers, and seconds as in 1.5s"),
        ("3d: a fox", 1, 1, "got '3d' as a time; accepted are a frame (24) and seconds (3s, 1.5s)"),
        ("1.2.3: a", 1, 1, "got '1.2.3' as a time"),
        ("-5: a", 1, 1, "got '-5' as a time"),
        ('"0": "a", "max_f/2": "b"', 1, 11, "got 'max_f/2' as a time"),
        ('"__import__(1)": "b"', 1, 1, "got '__import__(1)' as a time"),
        ('"": "b"', 1, 1, "got '' as a time"),
        ("\u201c0\u201d: \u201ca fox\u201d", 1, 1, "got the quotation mark \u201c"),
        ('  {"0": "a fox"', 1, 3, "begins with { but does not end with }"),
        ('{"0": "a fox"} more', 1, 1, "begins with { but does not end with }"),
        ('"0": "a fox --neg blur"', 1, 1, "got --neg"),
        ('"0": "a fox",\n "8": "a (hare:`pw_a`)"', 2, 2, "got '`pw_a`', but prompts cannot have expressions"),
        ("0: a fox\n8: a (hare:pw_d), asleep", 2, 1, "got 'pw_d', but prompts cannot have expressions"),
        ("a fox\na (hare:`(0.5*sin(t/8)+1)`)", 2, 1, "got '`(0.5*sin(t/8)+1)`', but prompts cannot have expressions"),
        ('[0-8: "a \\u0060t\\u0060 fox"]', 1, 1, "got '`t`', but prompts cannot have expressions"),
        ('```json\n{"0": "a fox"}\n```', 1, 1, "but prompts cannot have expressions"),
        ('["a fox", "a hare"]', 1, 1, "got a list; accepted are prompts without brackets"),
        ('# foxes\n [\n  "a fox",\n  "a hare"\n]\n', 2, 2, "got a list"),
        ("['a fox']", 1, 1, "got a list"),
        ('[{"frame": 0, "prompt": "a fox"}]', 1, 1, "got a list"),
        ('[[0, "a fox"], [8, "a hare"]]', 1, 1, "got a list"),
        ("[(0, 'a fox')]", 1, 1, "got a list"),
        ("[ ]", 1, 1, "got a list"),
        ("\ufeff0: a fox", 1, 1, "got a byte order mark (U+FEFF), which is invisible; delete it"),
        ("0: a fox\n\ufeff8: a hare", 2, 1, "got a byte order mark"),
        ("\u200b0: a fox", 1, 1, "got U+200B, which is invisible"),
        ("- 0: a fox\n- 8: a hare", 1, 1, "got '- 0: a fox'; a prompt begins with its time"),
        ("\uff10\uff1aa fox\n\uff18\uff1aa hare", 1, 1, "accepted are times in the digits 0 to 9"),
        ("\u30100-8\uff1aa fox\u3011", 1, 1, "accepted are times in the digits 0 to 9, and the brackets [ and ]"),
        ("0: a fox\n[8-1\uff16: a hare]", 2, 1, "a range is written [0s-3s: text]"),
        ("0\uff1aa fox\uff0c8\uff1aa hare", 1, 9, "got 8 on another prompt's line"),
        ("0: a\n100: b", 2, 1, "starts at frame 100, but the video ends with frame 99; make the video longer, or let"),
        ("0: a\n16; b", 2, 1, "got '16; b'; after its time a prompt has a colon, as in 16: text"),
        ("0: a\n[90-101: b]", 2, 1, "ends at frame 101, but the video has 100 frames"),
        ("a\n" * 7, 7, 1, "starts at frame 102, but the video ends with frame 99"),
        ("x" * (MAX_CHARACTERS + 1), 1, 1, "characters; accepted are up to"),
    ],
)
def test_errors_say_where_and_what(text, line, column, message):
    with pytest.raises(PromptScheduleError) as caught:
        parse_prompt_schedule(text, segment_frames=17, fps=8, num_frames=100, name="foxes.txt")
    assert message in caught.value.message
    assert (caught.value.line, caught.value.column) == (line, column)
    assert str(caught.value) == f"foxes.txt, line {line}, column {column}: {caught.value.message}"
    assert "\n" not in str(caught.value)
    assert len(caught.value.message) < 130


@pytest.mark.parametrize(
    ("text", "line", "column", "advice"),
    [
        ("a fox\n16; a hare", 2, 1, "'16; a hare' is read as words; to start a prompt at 16, write '16: a hare'"),
        ("16 - a hare", 1, 1, "write '16: a hare'"),
        ("16. a hare", 1, 1, "write '16: a hare'"),
        ("16, a hare", 1, 1, "write '16: a hare'"),
        ("16) a hare", 1, 1, "write '16: a hare'"),
        ("16 -> a hare", 1, 1, "write '16: a hare'"),
        ("1.5s; a hare", 1, 1, "to start a prompt at 1.5s, write '1.5s: a hare'"),
        ("  frame 16: a hare", 1, 3, "write '16: a hare'"),
        ("16\uff1b\u4e00\u53ea\u72d7", 1, 1, "write '16: \u4e00\u53ea\u72d7'"),
        (
            "0: a fox; 16: a hare",
            1,
            9,
            "'; 16: a hare' is read as words; to start a prompt at 16, write '16: a hare' on a",
        ),
        ("16; " + "a hare " * 20, 1, 1, "'16; a hare a hare a ...'"),
    ],
)
def test_words_that_look_like_a_time_are_told(text, line, column, advice):
    schedule = parse_prompt_schedule(text, segment_frames=16, fps=8)
    (slip,) = schedule.slips
    assert (slip.line, slip.column) == (line, column)
    assert advice in slip.advice
    assert schedule.warning() == f"line {line}, column {column}: {slip.advice}"
    assert "\n" not in schedule.warning()


@pytest.mark.parametrize(
    "text",
    [
        "16-bit pixel art\n3-D, a fox\n2 dogs\n2,5 metres\n80s neon\n50's diner\n4th; street",
        '"0": "16; a hare; 8: b"',
        "[0-8: 16; a hare; 8: b]",
        "0: a fox; a hare; 16:9 picture",
        "16 horses; a fox",
    ],
)
def test_numbers_in_prompts_are_not_taken_for_times(text):
    assert parse_prompt_schedule(text, segment_frames=16, fps=8).slips == ()


def test_slips_do_not_change_how_a_text_is_read():
    schedule = parse_prompt_schedule("0; a fox\n8; a hare\n9; an owl", segment_frames=16)
    assert [(segment.start, segment.text) for segment in schedule.segments] == [
        (0, "0; a fox"), (16, "8; a hare"), (32, "9; an owl"),
    ]  # fmt: skip
    assert schedule.warning().endswith("write '0: a fox' (and 2 more such places)")
    assert schedule == parse_prompt_schedule(schedule.canonical(), segment_frames=1)
    assert parse_prompt_schedule("a fox", segment_frames=1).warning() is None


def test_seconds_need_frames_per_second():
    with pytest.raises(PromptScheduleError, match=r"line 2, column 1: got 3s, but the frames per second are not known"):
        parse_prompts("0: a fox\n3s: a fox asleep", 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"segment_frames": 0}, "a segment has 0 frames"),
        ({"fps": 0.0}, "the video has 0.0 frames per second"),
        ({"fps": float("nan")}, "frames per second"),
        ({"fps": float("inf")}, "frames per second"),
        ({"num_frames": -1}, "the video has -1 frames"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        parse_prompt_schedule("a fox", **{"segment_frames": 16, **settings})


PIECES = [
    *"0123456789\"'\\:=,[](){}#-+.s\n\r\t \u2028\u201c\u2013\x00\ud800a",
    *(
        "0: ",
        '"0": "a fox"',
        "24",
        "3s",
        "[0-24: ",
        "--neg",
        "\\u12",
        "a fox",
        '{"0": "a"}',
        "\\ud83e\\udd8a",
        "9" * 30,
    ),
]


def test_nothing_but_a_value_error_comes_of_any_text():
    dice = random.Random(0)
    read, places = 0, []
    for _ in range(4000):
        text = "".join(dice.choices(PIECES, k=dice.randrange(1, 30)))
        text = text if dice.random() < 0.5 else f"0: a\n{text}"
        try:
            schedule = parse_prompt_schedule(text, segment_frames=8, fps=8, num_frames=dice.choice([0, 100]))
        except PromptScheduleError as error:
            places.append((text, error.line, error.column))
            continue
        read += 1
        assert parse_prompt_schedule(schedule.canonical(), segment_frames=1) == schedule
        assert schedule.segments[0].start == 0
        assert all(segment.text.strip() == segment.text != "" for segment in schedule.segments)
    assert read > 400
    for text, line, column in places:
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        assert 1 <= column <= len(lines[line - 1]) + 1


@pytest.mark.parametrize(
    "piece",
    [
        "0",
        "9.",
        "a",
        '"',
        "'",
        "\\",
        "[",
        "[0-1:",
        "]",
        "{",
        ",",
        ", 0",
        " ",
        "#",
        "\n",
        '"\\',
        "\\u0041",
        '"0":',
        "=",
        "-",
        "--neg",
        "`",
        "pw_",
        "[ ",
        "['a',",
        "\u200b",
        "\uff10",
        "- ",
    ],
)
@pytest.mark.parametrize("start", ["", "0: ", '0: "', "[0-1: ", '{"0": ', '"'])
def test_no_text_is_read_slowly(start, piece):
    """A regular expression cannot be counted: one that tries every end of what it began would be at it for minutes."""
    text = start + piece * ((MAX_CHARACTERS - 10) // len(piece) // 10)
    started = time.process_time()
    with suppress(PromptScheduleError):
        parse_prompt_schedule(text, segment_frames=1)
    assert time.process_time() - started < 20


def test_the_work_of_many_prompts_grows_with_their_number():
    text = "\n".join(f'"{frame}": "a fox",' for frame in range(10_000))
    with counted_calls() as calls:
        schedule = parse_prompt_schedule(text, segment_frames=1)
    assert len(schedule.segments) == 10_000
    assert parse_prompt_schedule(schedule.canonical(), segment_frames=1) == schedule
    assert calls.number < 150 * 10_000


# There and back


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("a fox\na hare", '"0": "a fox",\n"16": "a hare"'),
        ("[0s-3s: a fox] [3s-6s: a \\[red\\] hare]", '"0": "a fox",\n[24-48: "a [red] hare"]'),
        (r"0: a \(red\) 'fox'", r'''"0": "a \\(red\\) 'fox'"'''),
        (r'"0": "\u72d0\n狐"', r'"0": "狐\n狐"'),
    ],
)
def test_canonical_text(text, canonical):
    schedule = parse_prompt_schedule(text, segment_frames=16, fps=8)
    assert schedule.canonical() == canonical
    assert parse_prompt_schedule(canonical, segment_frames=1) == schedule
    assert parse_prompt_schedule(canonical, segment_frames=1).canonical() == canonical


def test_canonical_text_without_ranges_is_json():
    schedule = parse_prompt_schedule("0: a \\ \"fox\"\t\x01\n24: a 'hare'", segment_frames=16)
    assert json.loads(f"{{{schedule.canonical()}}}") == {"0": 'a \\ "fox"\t\x01', "24": "a 'hare'"}


def test_what_is_written_is_read_as_it_was():
    hypothesis = pytest.importorskip("hypothesis")
    strategies = hypothesis.strategies
    awkward = strategies.text(strategies.sampled_from("\"'\\[]{}#:=,-us0 \n\r\t\x00\u2028\u201c\ud800é"))
    texts = (strategies.text() | awkward).map(str.strip).filter(lambda text: text and "--neg" not in text)
    lengths = strategies.integers(1, 10**6)

    @hypothesis.settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @hypothesis.given(
        strategies.lists(strategies.tuples(lengths, texts), min_size=1, max_size=5), strategies.booleans()
    )
    def there_and_back(prompts, open_end):
        starts = [sum(length for length, _ in prompts[:index]) for index in range(len(prompts) + 1)]
        ends = [*starts[1:-1], None if open_end else starts[-1]]
        schedule = schedule_of(*zip(starts[:-1], ends, (text for _, text in prompts), strict=True))
        assert parse_prompt_schedule(schedule.canonical(), segment_frames=1) == schedule

    there_and_back()


# Blends


def weights(spans: list[PromptSpan], frame: int) -> list[float]:
    return [span.weight(frame) for span in spans]


def test_no_blend_is_a_change_at_once():
    spans = blended_spans([0, 24, 48])
    assert spans == [(0, 24, 0, 0), (24, 48, 0, 0), (48, None, 0, 0)]
    assert [weights(spans, frame) for frame in (0, 23, 24, 47, 48, 10**9)] == [
        *([[1, 0, 0]] * 2),
        *([[0, 1, 0]] * 2),
        *([[0, 0, 1]] * 2),
    ]


def test_a_blend_begins_with_the_later_prompt_and_is_linear():
    spans = parse_prompt_schedule("0: a\n24: b", segment_frames=16).spans(3)
    assert spans == [(0, 27, 0, 3), (24, None, 3, 0)]
    later = [weights(spans, frame)[1] for frame in range(22, 29)]
    assert later == [0, 0, 0.25, 0.5, 0.75, 1, 1]


@pytest.mark.parametrize("blend_frames", [0, 1, 2, 3, 5, 100])
def test_weights_add_up_to_1_and_each_prompt_has_a_frame_for_itself(blend_frames):
    starts = [0, 1, 2, 6, 8, 20]
    spans = blended_spans(starts, blend_frames)
    for frame in range(200):
        assert sum(weights(spans, frame)) == pytest.approx(1)
        assert sum(weight > 0 for weight in weights(spans, frame)) <= 2
    for index, end in enumerate([*starts[1:], 200]):
        assert weights(spans, end - 1) == [float(other == index) for other in range(len(starts))]


def test_a_blend_does_not_reach_back():
    blended, plain = blended_spans([0, 24], 8), blended_spans([0, 24])
    assert all(weights(blended, frame) == weights(plain, frame) for frame in range(24))


def test_edges_of_blends():
    assert blended_spans([0], 8) == [(0, None, 0, 0)]
    with pytest.raises(ValueError, match="blend frames is -1"):
        blended_spans([0, 24], -1)


# Files


def test_files(tmp_path):
    path = tmp_path / "foxes.txt"
    path.write_bytes("\ufeff0: a fox\n24: a fox asleep\n".encode())
    assert read_prompt_file(path, 16) == FOX
    path.write_bytes(b"[0s-3s: a fox]\n[3s-6s: a fox asleep]\n")
    assert read_prompt_file(path, 16, fps=8) == FOX
    path.write_bytes(b"5: a fox")
    with pytest.raises(PromptScheduleError, match=r"foxes\.txt, line 1, column 1: the first prompt"):
        read_prompt_file(path, 16)


def test_words_that_look_like_a_time_in_a_file_are_told(tmp_path):
    path, told = tmp_path / "foxes.txt", []
    path.write_bytes(b"a fox\n24; a fox asleep\n")
    assert [prompt.text for prompt in read_prompt_file(path, 16, warn=told.append)] == ["a fox", "24; a fox asleep"]
    path.write_bytes(b"0: a fox\n24: a fox asleep\n")
    read_prompt_file(path, 16, warn=told.append)
    (line,) = told
    assert line.startswith(f"{path}, line 2, column 1: '24; a fox asleep' is read as words")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe\x00a", "UTF-8"), (b"x" * (MAX_FILE_BYTES + 1), "larger"), (b"", "contains no prompt")],
)
def test_files_that_are_no_prompt_files(tmp_path, content, message):
    path = tmp_path / "foxes.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_prompt_file(path, 16)


def test_a_file_that_is_not_there_or_a_folder(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(ValueError, match="cannot read prompt file"):
            read_prompt_file(path, 16)
