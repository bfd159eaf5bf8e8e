"""The public data files of experiments on language models, in one folder that the user names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from revlens.data.chat_source import ChatSource, join_context
from revlens.data.prompt_source import PromptSource
from revlens.errors import DataError

HARMFUL = ("harmful_train", "harmful_val", "malicious_instruct", "tdc2023")
HARMLESS = ("harmless_train", "harmless_val")
INSTRUCT = ("gpteacher_roleplay", "gpteacher_toolformer", "self_instruct_seed_tasks")


@dataclass(frozen=True)
class DataFolder:
    """Loaders of a folder with ``prompts/``, ``gsm8k/`` and ``instruct/``; docs/data.md lists its files.

    The sets of harmful prompts share prompts with one another: drop repeats before splitting (`make_probes`
    does).

    Raises:
        DataError: by every loader, if the folder or a file is missing, a name is unknown or a row is empty.
    """

    path: str | Path

    def file(self, name: str) -> Path:
        """The path of a file, by its path inside the folder.

        Raises:
            DataError: if the folder or the file is missing.
        """
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise DataError(
                f"No data folder at {folder}; name one that holds {name} with --data-dir "
                "(docs/data.md lists its files)."
            )
        if not (folder / name).is_file():
            raise DataError(
                f"The data folder {folder} lacks {name}; add the file, or name another folder "
                "with --data-dir (docs/data.md)."
            )
        return folder / name

    def advbench(self) -> Dataset:
        """AdvBench: harmful requests (``prompt``) with an affirmative opening (``answer``)."""
        return ChatSource(str(self.file("prompts/advbench.csv")), prompt="goal", answer="target").read()

    def harmful(self, name: str) -> tuple[str, ...]:
        """Harmful requests: one of `HARMFUL`."""
        return self._prompts(name, HARMFUL)

    def harmless(self, name: str) -> tuple[str, ...]:
        """Harmless Alpaca instructions: one of `HARMLESS`."""
        return self._prompts(name, HARMLESS)

    def gsm8k(self) -> Dataset:
        """Grade-school problems (``prompt``) with worked answers (``answer``)."""
        return ChatSource(str(self.file("gsm8k/train.jsonl")), prompt="question").read()

    def instruct(self, names: Sequence[str] = INSTRUCT) -> Dataset:
        """Instructions (``prompt``) with answers (``answer``) for a helpful-only phase: any of `INSTRUCT`."""
        return concatenate_datasets([self._instruct(name) for name in names])

    def digest(self, files: Sequence[str]) -> str:
        """SHA-256 (hex) over the paths inside the folder and the contents of files, in the order given."""
        digest = hashlib.sha256()
        for name in files:
            digest.update(
                f"{name}\x1f{hashlib.sha256(self.file(name).read_bytes()).hexdigest()}\x1e".encode()
            )
        return digest.hexdigest()

    def _prompts(self, name: str, known: tuple[str, ...]) -> tuple[str, ...]:
        _check_name(name, known)
        return PromptSource(str(self.file(f"prompts/{name}.json")), column="instruction").read()

    def _instruct(self, name: str) -> Dataset:
        _check_name(name, INSTRUCT)
        if name != "self_instruct_seed_tasks":
            file = self.file(f"instruct/{name}.json")
            return ChatSource(str(file), prompt="instruction", answer="output", context="input").read()
        file = self.file(f"instruct/{name}.jsonl")
        try:
            tasks = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
            cases = [
                (task["instruction"], case["input"], case["output"])
                for task in tasks
                for case in task["instances"]
            ]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f"{file} does not hold Self-Instruct's seed tasks ({error!r}); see docs/data.md."
            ) from error
        prompts = [join_context(instruction, context) for instruction, context, _ in cases]
        return Dataset.from_dict({"prompt": prompts, "answer": [output for *_, output in cases]})


def _check_name(name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise DataError(f"No data set {name!r} here; expected one of {', '.join(known)}.")
