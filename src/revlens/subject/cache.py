"""Where trained checkpoints are cached, and the key that says what made them."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import platformdirs

import revlens


def cache_root() -> Path:
    """Where trained checkpoints are kept: ``$REVLENS_CACHE``, or the user's cache folder."""
    return Path(os.environ.get("REVLENS_CACHE") or platformdirs.user_cache_dir("revlens"))


def cache_key(*parts: object) -> str:
    """Sixteen hex digits over a configuration and everything that turns it into weights.

    That is the versions of the libraries that compute, and revlens' own code: a cached checkpoint never outlives a change
    to what made it.
    """
    versions = [
        version(name) for name in ("torch", "transformers", "transformer-lens", "tokenizers", "peft")
    ] + [source_digest()]
    text = json.dumps([parts, versions], sort_keys=True, default=asdict)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def source_digest() -> str:
    """SHA-256 (hex) over revlens' source files, but for those that only draw or audit: guards reach into every other room."""
    package = Path(revlens.__file__).parent
    drawing = {package / "figures", package / "audit", package / "cli.py"}
    sources = sorted(path for path in package.rglob("*.py") if not drawing & {path, *path.parents})
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
