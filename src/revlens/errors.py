"""Every exception that revlens raises on purpose. Each names the value, what was expected and what to do."""

from __future__ import annotations


class RevlensError(Exception):
    """Base of all revlens errors."""


class ConfigError(RevlensError, ValueError):
    """A setting is out of its range or disagrees with another one."""


class HookNameError(RevlensError, KeyError):
    """A name matches no hook point of the model."""

    def __str__(self) -> str:  # KeyError would print the message's repr
        return str(self.args[0])


class ModelError(RevlensError, TypeError):
    """A model is of another kind than the one asked for, such as a Hugging Face model without a bridge."""


class SiteError(RevlensError, ValueError):
    """A layer, component or position policy does not exist on this model."""


class ProbeError(RevlensError, ValueError):
    """A probe split is missing, empty, repeats a prompt or shares one with another split."""


class FileError(RevlensError, ValueError):
    """A small file is no regular file, too large, no text or not well formed; callers add its name."""


class DataError(RevlensError, ValueError):
    """Data cannot be found or read, or its columns or rows are not what the mapping says."""


class HistoryError(RevlensError, ValueError):
    """A checkpoint or step is not in the history, cannot be read, or does not fit the others."""


class NonFiniteError(RevlensError, ArithmeticError):
    """A loss, an activation or a direction holds NaN or infinity, or directions span nothing."""


class GuardError(RevlensError, RuntimeError):
    """A guard cannot act: it sees no gradient or does not fit the model."""


class ResultsError(RevlensError, RuntimeError):
    """Stored results are missing, incomplete or belong to another configuration."""


class StorageError(RevlensError, OSError):
    """A path cannot be written: the disk is full, it is read-only, or another process writes there."""


class WorkerError(RevlensError, RuntimeError):
    """A process that ran a task died, again and again."""
