"""A revision of a Hugging Face Hub repository as a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from revlens.errors import HistoryError
from revlens.history.directory import Directory
from revlens.history.source import Source

# Never *.bin: revlens does not unpickle. Not *.safetensors either: some repositories keep the weights twice.
_SMALL = ("*.json", "*.jinja", "*.txt", "*.model")
_WEIGHTS = (*_SMALL, "model.safetensors", "model-*.safetensors")


@dataclass(frozen=True)
class Hub:
    """A repository at a revision. Small files are downloaded for the checks, weights when they are loaded.

    Attributes:
        repo: such as ``EleutherAI/pythia-70m``.
        revision: branch, tag or commit.

    Raises:
        HistoryError: by every method, if neither the hub nor the cache has the repository, the revision or
            a file of it; and as `Directory`.
    """

    repo: str
    revision: str = "main"

    def __post_init__(self) -> None:
        # git has no such names, and the cache makes paths of them.
        if ".." in self.revision or self.revision.startswith("/"):
            raise HistoryError(f"revision = {self.revision!r} of {self.repo} is no branch, tag or commit.")

    @property
    def commit(self) -> str:
        """The commit of the revision when this source first looked; everything is read from that commit."""
        return self._small.path.name

    def identity(self) -> str:
        """``repo@commit``."""
        return f"{self.repo}@{self.commit}"

    def fingerprint(self) -> str:
        """See `Source.fingerprint`: the commit fixes every file."""
        return self.identity()

    def config(self) -> Mapping[str, Any]:
        """See `Source.config`."""
        return self._small.config()

    def vocabulary(self) -> tuple[Any, Any]:
        """See `Source.vocabulary`."""
        return self._small.vocabulary()

    def chat_template(self) -> Any:
        """See `Source.chat_template`."""
        return self._small.chat_template()

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """See `Source.tokenizer`."""
        return self._small.tokenizer()

    def module(self, dtype: torch.dtype) -> PreTrainedModel:
        """See `Source.module`."""
        model = self._download(self.commit, _WEIGHTS).module(dtype)
        # An adapter that is trained on it names its base by this, and not by a folder of the cache.
        model.name_or_path = self.repo
        return model

    def boot(self, dtype: torch.dtype, reader: Source | None = None) -> TransformerBridge:
        """See `Source.boot`."""
        return self._download(self.commit, _WEIGHTS).boot(dtype, reader or self)

    @cached_property
    def _small(self) -> Directory:
        return self._download(self.revision, _SMALL)

    def _download(self, revision: str, patterns: Sequence[str]) -> Directory:
        try:
            # Top level only: subfolders hold other formats.
            path = snapshot_download(
                self.repo, revision=revision, allow_patterns=list(patterns), ignore_patterns=["*/*"]
            )
        except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError) as error:
            raise HistoryError(
                f"{self.repo} at revision {revision!r} can be had neither from the Hugging Face Hub "
                "nor from the local cache. Check both names, the network (HF_HUB_OFFLINE) and, "
                f"for a gated model, `hf auth login`. ({error})"
            ) from error
        return Directory(Path(path))
