"""Makes the tokenizer of prompts and a text encoder, which takes long, when it is imported: for `tests/forked.py`."""

from artv_core.config import preset
from artv_core.models.text import TextEncoder

TextEncoder(preset("tiny").text).tokenize([""])
