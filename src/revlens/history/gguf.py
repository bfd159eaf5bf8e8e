"""A GGUF file, as llama.cpp writes them, as a source."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from revlens.errors import HistoryError
from revlens.history.directory import Directory
from revlens.history.source import Source
from revlens.history.wrap import wrap
from revlens.storage import atomic_directory, cache_root, make_once, seal

SUFFIX = ".gguf"
#: What turns a file into a directory, beside this module.
_LIBRARIES = ("transformers", "tokenizers", "gguf")
#: Architectures whose scaled rotary angles transformers takes from the file.
_SCALED = ("gpt-oss", "gpt_oss")
_DIRECTORY = "Take the model's Hugging Face directory or repository instead."
_OTHER = "Take another file of the model, such as one in Q8_0 or F16, or its Hugging Face directory."


@dataclass(frozen=True)
class Gguf:
    """A GGUF file with weights, tokenizer and chat template, read by transformers.

    The file is converted once, into directories of the cache that load and save like any other: one with its
    small files, and one with the weights, dequantised to the dtype in which they are asked for. Such a
    directory is that of a file's content and of the libraries that converted it.

    Attributes:
        path: of the file.

    Raises:
        HistoryError: by every method, if the package gguf is missing; if the file is damaged, or of an
            architecture or a quantisation that transformers does not read; if the model computes with scaled
            rotary angles, which transformers does not take from these files. By `tokenizer` and `boot`, if
            it has no chat template and is to encode prompts.
    """

    path: Path

    def identity(self) -> str:
        """The absolute path."""
        return str(self.path.absolute())

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the file."""
        try:
            status = self.path.stat()
        except OSError as error:
            raise HistoryError(f"There is no GGUF file {self.path} ({error.strerror}).") from error
        return _digest(self.path.absolute(), status.st_size, status.st_mtime_ns)

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
        if self.chat_template() is None:
            raise HistoryError(
                f"{self.path} holds no chat template, so its tokenizer encodes no prompts. Write one into a "
                "copy, with a tool of the package gguf: gguf-new-metadata --chat-template-file "
                "template.jinja OLD.gguf NEW.gguf"
            )
        return self._small.tokenizer()

    def module(self, dtype: torch.dtype) -> PreTrainedModel:
        """See `Source.module`."""
        write = functools.partial(self._write_weights, self._small, dtype)
        return self._converted(str(dtype).removeprefix("torch."), write).module(dtype)

    def boot(self, dtype: torch.dtype, reader: Source | None = None) -> TransformerBridge:
        """See `Source.boot`."""
        return wrap(self.module(dtype), (reader or self).tokenizer())

    @property
    def _small(self) -> Directory:
        """Configuration and tokenizer, without weights."""
        return self._converted("small", self._write_small)

    def _converted(self, name: str, write: Callable[[Path], None]) -> Directory:
        """A directory of this file in the cache, written first if it is not there."""
        if importlib.util.find_spec("gguf") is None:
            raise HistoryError(
                f"To read {self.path}, the package gguf is needed: pip install 'revlens[gguf]'."
            )
        made_by = [self.fingerprint(), *map(version, _LIBRARIES), Path(__file__).read_text()]
        home = cache_root() / "gguf" / hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:16]

        def convert() -> None:
            with atomic_directory(home / name) as partial:
                write(partial)
                seal(partial)

        make_once(home / name, convert)
        return Directory(home / name)

    def _write_small(self, folder: Path) -> None:
        self._check_header()
        with self._as_transformers_reads_it("configuration") as place:
            config = AutoConfig.from_pretrained(**place)
        with self._as_transformers_reads_it("tokenizer") as place:
            tokenizer = AutoTokenizer.from_pretrained(**place)
        _mended(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    def _write_weights(self, small: Directory, dtype: torch.dtype, folder: Path) -> None:
        from transformers import GgufConfig  # not in every version that reads other directories

        config = AutoConfig.from_pretrained(small.path, trust_remote_code=False)
        with self._as_transformers_reads_it("weights") as place:
            read: Any = AutoModelForCausalLM.from_pretrained(
                **place,
                config=config,
                dtype=dtype,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
            )
        model, loaded = read
        lacking = sorted(loaded["missing_keys"] | loaded["unexpected_keys"])
        if lacking:
            raise HistoryError(
                f"The tensors of {self.path} are not those of {type(model).__name__}: {len(lacking)} are "
                f"missing or have no place there, the first of them {lacking[0]}. {_OTHER}"
            )
        # A model out of a GGUF file cannot be saved itself: to transformers it stays quantised.
        with init_empty_weights():
            skeleton = type(model)(config)
        skeleton.to(dtype=dtype).save_pretrained(folder, state_dict=model.state_dict())
        small.tokenizer().save_pretrained(folder)

    def _check_header(self) -> None:
        """Check what transformers would take no notice of, before it reads for long."""
        from transformers.integrations.gguf.reader import read_gguf_metadata

        try:
            metadata, tensors = read_gguf_metadata(str(self.path))
        except Exception as error:  # whatever the bytes of a damaged file lead to
            raise HistoryError(
                f"{self.path} is no whole GGUF file ({type(error).__name__}: {error}); download it again."
            ) from error
        architecture = metadata["general.architecture"]
        scaling = metadata.get(f"{architecture}.rope.scaling.type", "none")
        factors = [name for name in tensors if name.startswith("rope_")]
        if (scaling != "none" or factors) and architecture not in _SCALED:
            what = f"the tensor {factors[0]}" if factors else f"rope.scaling.type = {scaling!r}"
            raise HistoryError(
                f"{self.path} has {what}: its model scales rotary angles, and transformers does not take "
                f"that from a GGUF file of architecture {architecture!r}, so its numbers would be others. "
                f"{_DIRECTORY}"
            )

    @contextmanager
    def _as_transformers_reads_it(self, what: str) -> Iterator[dict[str, Any]]:
        """Arguments of ``from_pretrained`` that name this file, alone in a folder.

        Tokenizer files, or an adapter, that lie beside it would be read in its place.
        """
        try:
            with tempfile.TemporaryDirectory() as folder:
                os.symlink(self.path.absolute(), Path(folder) / f"model{SUFFIX}")
                yield {
                    "pretrained_model_name_or_path": folder,
                    "gguf_file": f"model{SUFFIX}",
                    "trust_remote_code": False,
                }
        except Exception as error:  # bytes, sizes and names that make no model, each in its own way
            reason = f"{type(error).__name__}: {error}"
            if isinstance(error, NotImplementedError) or "GGMLQuantizationType" in reason:
                raise HistoryError(
                    f"{self.path} has tensors in a quantisation that the package gguf does not undo "
                    f"({reason}). {_OTHER}"
                ) from error
            raise HistoryError(
                f"transformers cannot read the {what} in {self.path} ({reason}). If the file is damaged, "
                f"download it again; if transformers does not know its kind: {_DIRECTORY}"
            ) from error


def _mended(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration with numbers as they were written, and without the name that the file gives itself.

    A GGUF file holds single precision, so an epsilon of 1e-5 comes back as 9.999999747378752e-06: each such
    number becomes the shortest decimal that rounds to it.
    """

    def mended(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: mended(item) for key, item in value.items()}
        if isinstance(value, list):
            return [mended(item) for item in value]
        if isinstance(value, float) and float(np.float32(value)) == value:
            return float(str(np.float32(value)))
        return value

    settings = mended(config.to_dict())
    settings.pop("_model_name_or_path", None)
    return AutoConfig.for_model(settings.pop("model_type"), **settings)


@functools.cache  # every stage of an experiment asks for it
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
