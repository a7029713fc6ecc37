"""Which script a text is written in, by the Unicode blocks of its letters.

Blocks are those of the Unicode Standard (Blocks.txt). A letter's block names its script, but for
some forty phonetic, Coptic and Syriac letters among Latin, Greek and Arabic ones. The table is here
and small, so that another version of Python or Unicode decides no sample anew.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from functools import cache

BLOCKS = {
    "latin": (
        (0x41, 0x5A), (0x61, 0x7A), (0xAA, 0xAA), (0xBA, 0xBA), (0xC0, 0x2AF), (0x1D00, 0x1DBF),
        (0x1E00, 0x1EFF), (0x2C60, 0x2C7F), (0xA720, 0xA7FF), (0xAB30, 0xAB6F), (0xFB00, 0xFB06),
        (0xFF21, 0xFF3A), (0xFF41, 0xFF5A),
    ),
    "greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "cyrillic": ((0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
    "armenian": ((0x530, 0x58F), (0xFB13, 0xFB17)),
    "hebrew": ((0x590, 0x5FF), (0xFB1D, 0xFB4F)),
    "arabic": (
        (0x600, 0x6FF), (0x750, 0x77F), (0x870, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC),
    ),
    "devanagari": ((0x900, 0x97F), (0xA8E0, 0xA8FF)),
    "bengali": ((0x980, 0x9FF),),
    "gurmukhi": ((0xA00, 0xA7F),),
    "gujarati": ((0xA80, 0xAFF),),
    "oriya": ((0xB00, 0xB7F),),
    "tamil": ((0xB80, 0xBFF),),
    "telugu": ((0xC00, 0xC7F),),
    "kannada": ((0xC80, 0xCFF),),
    "malayalam": ((0xD00, 0xD7F),),
    "sinhala": ((0xD80, 0xDFF),),
    "thai": ((0xE00, 0xE7F),),
    "lao": ((0xE80, 0xEFF),),
    "tibetan": ((0xF00, 0xFFF),),
    "myanmar": ((0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F)),
    "georgian": ((0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F)),
    "ethiopic": ((0x1200, 0x139F), (0x2D80, 0x2DDF), (0xAB00, 0xAB2F)),
    "khmer": ((0x1780, 0x17FF),),
    "mongolian": ((0x1800, 0x18AF),),
    "hiragana": ((0x3040, 0x309F),),
    "katakana": ((0x30A0, 0x30FF), (0x31F0, 0x31FF), (0xFF65, 0xFF9F)),
    "bopomofo": ((0x3100, 0x312F), (0x31A0, 0x31BF)),
    "hangul": (
        (0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF), (0xFFA0, 0xFFDC),
    ),
    "han": (
        (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
        (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
    ),
}  # fmt: skip
SHARED = (
    (0xB5, 0xB5),  # the sign micro
    (0x2B0, 0x2FF),  # modifier letters
    (0x2100, 0x214F),  # letter-like signs: ℓ, ℝ
    (0x1D400, 0x1D7FF),  # letters of mathematics
)
OTHER = "other"
NAMES = (*BLOCKS, OTHER)
_RANGES = sorted(
    [(first, last, name) for name, blocks in BLOCKS.items() for first, last in blocks]
    + [(first, last, "") for first, last in SHARED]
)
_STARTS = [first for first, _, _ in _RANGES]
_NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalpha())


@cache
def script_of(character: str) -> str:
    """The script of a letter, `OTHER` if it is not in the table, "" for what no script owns."""
    if not character.isalpha():
        return ""
    code = ord(character)
    _, last, name = _RANGES[bisect_right(_STARTS, code) - 1]  # the first letter is A, in a range
    return name if code <= last else OTHER


def letters_by_script(text: str) -> Counter[str]:
    """How many letters of each script a text has; digits, signs and emoji are no letters."""
    if text.isascii():
        letters = len(text.encode().translate(None, _NO_LETTERS))
        return Counter({"latin": letters} if letters else {})
    scripts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if name := script_of(character):
            scripts[name] += count
    return scripts
