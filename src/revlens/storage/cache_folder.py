"""The folder for what is made once and found again: trained checkpoints, converted files, answers."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_root() -> Path:
    """Where they are kept: ``$REVLENS_CACHE``, or the user's cache folder."""
    return Path(os.environ.get("REVLENS_CACHE") or platformdirs.user_cache_dir("revlens"))
