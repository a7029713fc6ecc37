"""Removing secrets from what is shown, logged or sent: configs, addresses, error texts."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "[hidden]"
_SECRET_KEYS = frozenset(
    {"token", "hf_token", "password", "passwd", "secret", "api_key", "access_key", "credentials"}
)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"(?i)([?&](?:token|password|secret|api_?key|sig|signature)=)[^&\s]+")
_KNOWN_TOKENS = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|dapi[0-9a-f]{32})")


def redact_text(text: str) -> str:
    """``text`` without user and password in addresses, and without well-known kinds of token."""
    text = _CREDENTIALS.sub("", text)
    text = _QUERY.sub(rf"\1{HIDDEN}", text)
    return _KNOWN_TOKENS.sub(HIDDEN, text)


def redact(value: Any) -> Any:
    """A copy of plain JSON data in which secrets are replaced, by key and by their look."""
    if isinstance(value, dict):
        return {
            key: HIDDEN if str(key).lower() in _SECRET_KEYS and item else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return redact_text(value) if isinstance(value, str) else value
