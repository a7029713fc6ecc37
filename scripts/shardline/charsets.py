"""The text of HTML files, in the encoding that a browser would take them to be in.

Labels, their meaning and the order of precedence are those of the WHATWG: Encoding Standard, and
HTML Standard section "Determining the character encoding".
"""

from __future__ import annotations

import codecs
import re

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
)
# What the web means by a label, where it is more than Python takes the label for.
WIDER = {
    "ascii": "cp1252",
    "big5": "big5hkscs",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "shift_jis": "cp932",
    "tis-620": "cp874",
    "utf-16": "utf-8",  # a declaration that can be read as ASCII is not in UTF-16
    "utf-16-be": "utf-8",
    "utf-16-le": "utf-8",
}
UNKNOWN_TO_PYTHON = {
    "csgb2312": "gb18030",
    "dos-874": "cp874",
    "gb_2312-80": "gb18030",
    "iso-8859-8-i": "iso8859-8",
    "koi8-ru": "koi8-u",
    "unicode-1-1-utf-8": "utf-8",
    "windows-31j": "cp932",
    "x-cp1251": "cp1251",
    "x-cp1252": "cp1252",
    "x-euc-jp": "euc_jp",
    "x-gbk": "gb18030",
    "x-mac-cyrillic": "mac-cyrillic",
    "x-sjis": "cp932",
    "x-x-big5": "big5hkscs",
}
KNOWN = {
    *("utf-8", "gb18030", "big5hkscs", "euc_jp", "iso2022_jp", "cp932", "cp949", "koi8-r"),
    *("koi8-u", "cp866", "cp874", "mac-roman", "mac-cyrillic"),
    *(f"cp125{number}" for number in range(9)),
    *(f"iso8859-{number}" for number in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)),
}
COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
DECLARED = re.compile(
    rb"""\A<\?xml[^>]{0,200}?\bencoding\s*=\s*["']?([^\s"'?>]+)"""
    rb"""|<meta\b[^>]{0,1000}?\bcharset\s*=\s*["']?\s*([^\s"'/>;]+)""",
    re.IGNORECASE,
)
BODY = re.compile(rb"<body\b", re.IGNORECASE)


def decode_html(data: bytes) -> tuple[str, str]:
    """The text of an HTML file, every character kept, and the name of its encoding.

    A byte order mark decides (and stays in the text), then the first known encoding that the head
    declares, else it is UTF-8.

    Raises:
        UnicodeDecodeError: the bytes are not in that encoding.
    """
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), None)
    encoding = encoding or declared_encoding(data) or "utf-8"
    return data.decode(encoding), encoding


def declared_encoding(data: bytes) -> str | None:
    """Python's name of the encoding that an HTML file's head declares; None if it says nothing."""
    head = COMMENT.sub(b"", data)
    body = BODY.search(head)
    for match in DECLARED.finditer(head, 0, body.start() if body else len(head)):
        label = (match[1] or match[2]).decode("latin-1").lower()
        try:
            name = codecs.lookup(UNKNOWN_TO_PYTHON.get(label, label)).name
        except (LookupError, ValueError):
            continue
        name = WIDER.get(name, name)
        if name in KNOWN:
            return name
    return None
