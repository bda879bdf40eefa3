"""Regular expressions for the syntax: times, keys, ranges, quotes, and text that is refused."""

import re

# Quantifiers are possessive (`*+`), so that no text makes matching slow. `_SPACE` does not match a newline.
_SPACE = r"[^\S\n]*+"
_TIME = r"[-+]?[0-9][0-9.]*+[A-Za-z]*+"
_COLONS = ":\uff1a"  # the second one is full-width, as typed on Chinese and Japanese keyboards
_MARKS = "\"'\u2018\u2019\u201c\u201d"

SPACES = re.compile(_SPACE)
BETWEEN = re.compile(r"(?:[\s,]|#[^\n]*+)*+")
KEY = re.compile(
    rf"(?:(?P<mark>[{_MARKS}])(?P<quoted>[^\n{_MARKS}]{{0,100}})[{_MARKS}]|(?P<bare>{_TIME})){_SPACE}[{_COLONS}=]{_SPACE}"
)
BRACE = re.compile(rf"{BETWEEN.pattern}\{{(?=\s*+(?:\}}|{KEY.pattern}))")
RANGE_BEGIN = re.compile(rf"\[{_SPACE}[-+]?[0-9]")
RANGE = re.compile(
    rf"\[{_SPACE}(?P<start>{_TIME}){_SPACE}(?P<dash>[-\u2013\u2014]){_SPACE}(?P<end>{_TIME})?+{_SPACE}[{_COLONS}]{_SPACE}"
)
RANGE_END = re.compile(r"\]")
BRACKET = re.compile(r"\\.|[\[\]\n]")
QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*+"' + "|" + r"'(?:[^'\\\n]|\\.)*+'")
QUOTED_END = re.compile(r"(?=[,#\n]|\Z)")
LINE = re.compile(r"[^\n]*+")
SECOND_KEY = re.compile(rf"[,\uff0c]{_SPACE}(?P<key>[\"']?[0-9]++s?[\"']?){_SPACE}(?:[:=](?=[\s\"'])|\uff1a)")
TIME_PARTS = re.compile(r"(?P<number>[0-9]++(?:\.[0-9]++)?+)(?P<seconds>[sS])?+")
NEGATIVE = re.compile(r"(?<!\S)--neg")
EXPRESSION = re.compile(r"`[^`]*+`|(?<!\w)pw_[a-d](?!\w)")
BYTE_ORDER_MARK = "\ufeff"
INVISIBLE = re.compile(rf"[\u200b-\u200f\u202a-\u202e\u2060-\u2069]++(?:{KEY.pattern}|{RANGE_BEGIN.pattern}|\{{)")
LIST = re.compile(
    rf"\[\s*+(?:(?:{QUOTED.pattern})\s*+(?:,|(?:\]\s*+)?,?\s*+\Z)|\{{\s*+[\"']|[\[(]\s*+[\"'0-9]|\]\s*+\Z)"
)
DASHED_KEY = re.compile(rf"[-*\u2022][^\S\n]++{KEY.pattern}")
WIDE_TIME = re.compile(
    rf"(?:[\uff3b\u3010]{_SPACE}[\"']?\d[\d.]*+|\[?{_SPACE}[\"']?[0-9.]*+(?![0-9])\d[\d.]*+)"
    rf"[sS]?{_SPACE}[\"']?{_SPACE}[{_COLONS}=\uff1d\-\u2013\u2014\uff0d]"
)
ESCAPE = re.compile(r"(?P<units>(?:\\u[0-9a-fA-F]{4})++)|\\(?P<character>[\"'\\/bfnrt])")
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def unescaped(match: re.Match[str]) -> str:
    """The characters that an escape stands for. `match` is a match of `ESCAPE`."""
    if match["units"]:
        return bytes.fromhex(match["units"].replace("\\u", "")).decode("utf-16-be", "replace")
    return _ESCAPED.get(match["character"], match["character"])
