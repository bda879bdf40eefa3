"""Makes the tokenizer of prompts, which takes long, when it is imported: for `tests/forked.py`."""

from artv_core.config import preset
from artv_core.models.text import tokenize

tokenize([""], preset("tiny").text)
