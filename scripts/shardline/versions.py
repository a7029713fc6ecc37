"""Versions of the packages that shape a stage's bytes, for its manifest."""

from __future__ import annotations

from importlib.metadata import version


def package_versions(*packages: str) -> dict[str, str]:
    """``{package: version}`` of installed packages."""
    return {package: version(package) for package in packages}
