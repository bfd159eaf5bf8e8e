"""Set-up of every process that runs tasks: deterministic, quiet, with a fixed number of threads."""

from __future__ import annotations

import os
import traceback
from io import BytesIO
from multiprocessing.reduction import ForkingPickler

from revlens.errors import RevlensError


def prepare_process(n_threads: int | None) -> None:
    """Prepare this process for tasks; a second call changes nothing.

    Args:
        n_threads: of torch; None keeps them.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic algorithms on a GPU
    import torch
    from datasets import disable_progress_bars
    from transformers.utils import logging

    if n_threads is not None:
        torch.set_num_threads(n_threads)
    torch.use_deterministic_algorithms(True)
    logging.disable_progress_bar()
    disable_progress_bars()


def portable(error: Exception) -> Exception:
    """The error in a form that can go to another process, with its traceback as a note if it is not ours."""
    if not isinstance(error, RevlensError):
        error.add_note("".join(traceback.format_exception(error)))
    error.__cause__ = error.__context__ = None  # neither sent nor needed
    try:
        buffer = BytesIO()
        ForkingPickler(buffer).dump(error)
        ForkingPickler.loads(buffer.getbuffer())
    except Exception:  # its arguments do not rebuild it
        copy = RuntimeError(f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", []):
            copy.add_note(note)
        return copy
    return error
