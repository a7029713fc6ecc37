"""Recorded episodes of people or programs at a user interface, one module a layout.

A layout is a module with::

    ANNOTATIONS: tuple[str, ...]    # globs of its files, the first that matches anything is read
    def read(raw: Path, files: list[str], language: str) -> Iterator[Episode]

Each layout has coordinates of its own, which are part of its definition; in what it yields they
are fractions of the screenshot.
"""
