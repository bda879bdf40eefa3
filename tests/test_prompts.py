import pytest

from artv_core.prompts import MAX_FILE_BYTES, parse_prompts, read_prompt_file

FOX = [(0, "a fox"), (24, "a fox asleep")]


def test_lines_follow_one_another_in_segments():
    text = "\ufeffa fox\r\n\n# not this one\n  a fox, asleep: softly  \na hare\n".removeprefix("\ufeff")
    assert parse_prompts(text, 16) == [(0, "a fox"), (16, "a fox, asleep: softly"), (32, "a hare")]


@pytest.mark.parametrize(
    "text",
    [
        "0: a fox\n24: a fox asleep",
        '"0": "a fox",\n"24": "a fox asleep",',
        '"0": "a fox",\n"24": "a fox asleep"',
        '0 = "a fox"\n24 = "a fox asleep"',
        "0=a fox\n\n# then\n 24 :a fox asleep ",
        '0: a fox\n"24": "a fox asleep"',
    ],
)
def test_frames_may_be_named_in_the_styles_of_other_schedulers(text):
    assert parse_prompts(text, 16) == FOX


def test_quotes_inside_quotes_are_escaped():
    assert parse_prompts(r'"0": "a \"red\" fox \\ hare"', 16) == [(0, r'a "red" fox \ hare')]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("5: a fox", 1, "must start at frame 0"),
        ("0: a fox\n\n8: b\n8: c", 4, "does not come after frame 8"),
        ("0: a fox\n8: b\n4: c", 3, "does not come after frame 8"),
        ("a fox\n16: a fox asleep", 2, "or none does"),
        ("# foxes\n0: a fox\na fox asleep", 3, "or none does"),
        ("0: a fox\n8:", 2, "empty"),
        ('0: ""', 1, "empty"),
        ('"0": a fox', 1, "double quotes"),
        ('"0": "a fox", "24": "a fox asleep"', 1, "double quotes"),
        ("0: a fox\n99999999999: b", 2, "beyond"),
        ("0: a fox\n" + "9" * 5000 + ": b", 2, "beyond"),
    ],
)
def test_errors_name_the_line(text, line, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_prompts(text, 16, "foxes.txt")
    assert str(caught.value).startswith(f"foxes.txt, line {line}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n \n", "# only a comment\n"])
def test_no_prompt_at_all_is_refused(text):
    with pytest.raises(ValueError, match="holds no prompt"):
        parse_prompts(text, 16)


def test_files(tmp_path):
    path = tmp_path / "foxes.txt"
    path.write_bytes("\ufeff0: a fox\n24: a fox asleep\n".encode())
    assert read_prompt_file(path, 16) == FOX


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe\x00a", "UTF-8"), (b"x" * (MAX_FILE_BYTES + 1), "larger"), (b"", "holds no prompt")],
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
