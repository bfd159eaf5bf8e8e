"""What every process that runs tasks has to be: deterministic, quiet, and on as many threads as it was given."""

from __future__ import annotations

import os
import traceback
from io import BytesIO
from multiprocessing.reduction import ForkingPickler

from revlens.errors import RevlensError


def prepare_process(n_threads: int | None) -> None:
    """Set this process up for tasks; twice does no harm.

    Args:
        n_threads: of torch; None leaves them as they are.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic algorithms need on a GPU
    import torch
    from datasets import disable_progress_bars
    from transformers.utils import logging

    if n_threads is not None:
        torch.set_num_threads(n_threads)
    torch.use_deterministic_algorithms(True)
    logging.disable_progress_bar()
    disable_progress_bars()


def portable(error: Exception) -> Exception:
    """The error as it can be sent to another process, with a note that holds its traceback unless it explains itself."""
    if not isinstance(error, RevlensError):
        error.add_note("".join(traceback.format_exception(error)))
    error.__cause__ = error.__context__ = None  # they would not be sent, and need not be sendable
    try:
        buffer = BytesIO()
        ForkingPickler(buffer).dump(error)
        ForkingPickler.loads(buffer.getbuffer())
    except Exception:  # an exception whose arguments do not rebuild it
        copy = RuntimeError(f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", []):
            copy.add_note(note)
        return copy
    return error
