"""Training examples, a prompt with its answer, from any table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from revlens.data.table_source import TableSource, text_of
from revlens.errors import ConfigError, DataError


@dataclass(frozen=True)
class ChatSource(TableSource):
    """Exchanges in a table: a column of prompts and one of answers, or one of messages.

    Attributes:
        prompt: column of the user's messages.
        answer: column of the assistant's answers.
        context: column of texts that prompts are about, such as Alpaca's ``input``. A text follows its
            prompt after a blank line, see `join_context`.
        messages: column of conversations, lists of ``{"role": ..., "content": ...}``, in place of the three
            columns above. A conversation must open with a user message and the answer to it; later turns
            are left out, and so is a first system message without text. Content may be a list of text parts,
            ``{"type": "text", "text": ...}``, which are joined.
        max_characters: longest prompt and answer together; longer rows are left out. The time of an update
            depends on the longest row of its batch.

    Raises:
        ConfigError: if both ``messages`` and another column are named, or ``max_characters`` is not positive;
            see also `TableSource`.
    """

    prompt: str = "prompt"
    answer: str = "answer"
    context: str | None = None
    messages: str | None = None
    max_characters: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_characters is not None and self.max_characters < 1:
            raise ConfigError(
                f"max_characters={self.max_characters} must be positive; leave it out to take every row."
            )
        if self.messages is not None and (self.prompt, self.answer, self.context) != (
            "prompt",
            "answer",
            None,
        ):
            raise ConfigError(
                f"messages={self.messages!r} holds prompts and answers; "
                "do not name prompt, answer or context as well."
            )

    def read(self, root: str | Path | None = None) -> Dataset:
        """The examples, in columns ``prompt`` and ``answer``.

        Args:
            root: the folder that a relative path starts at, such as a configuration file's; the working
                directory if None.

        Raises:
            DataError: if the source cannot be read, lacks a column, has an empty row, or none that is short
                enough; if a conversation does not open with a user message and its answer.
        """
        pairs = self.collect(
            self._short(
                self._columns(root) if self.messages is None else self._conversations(self.messages, root)
            )
        )
        return Dataset.from_dict(
            {"prompt": [prompt for prompt, _ in pairs], "answer": [answer for _, answer in pairs]}
        )

    def _short(self, rows: Iterator[tuple[str, tuple[str, str]]]) -> Iterator[tuple[str, tuple[str, str]]]:
        """The rows that are not too long.

        Raises:
            DataError: if there are rows, and all are too long.
        """
        if self.max_characters is None:
            yield from rows
            return
        n_long, any_short = 0, False
        for where, texts in rows:
            if sum(map(len, texts)) > self.max_characters:
                n_long += 1
            else:
                any_short = True
                yield where, texts
        if n_long and not any_short:
            raise DataError(
                f"All {n_long} row(s) of {self.path} are longer than max_characters={self.max_characters}; "
                "raise it, or leave it out to take every row."
            )

    def _columns(self, root: str | Path | None) -> Iterator[tuple[str, tuple[str, str]]]:
        columns = {"prompt": self.prompt, "answer": self.answer} | (
            {} if self.context is None else {"context": self.context}
        )
        for where, cells in self.rows(columns, root):
            text = {setting: text_of(cell, where) for setting, cell in cells.items()}
            yield where, (join_context(text["prompt"], text.get("context", "")), text["answer"])

    def _conversations(self, column: str, root: str | Path | None) -> Iterator[tuple[str, tuple[str, str]]]:
        for where, cells in self.rows({"messages": column}, root):
            yield where, first_exchange(cells["messages"], where)


def join_context(prompt: str, context: str) -> str:
    """Prompt, blank line, context, as in Alpaca, but without its headings: the chat template replaces them.

    An empty prompt stays empty: a context alone asks nothing.
    """
    return f"{prompt}\n\n{context}" if prompt.strip() and context.strip() else prompt


def first_exchange(messages: Any, where: str) -> tuple[str, str]:
    """The first user message and the answer to it, each empty if the conversation is too short.

    Raises:
        DataError: if these are not messages with text, or others come first. A system message with text is
            refused rather than left out: prompts are encoded without one, so training would put the answer
            in another context.
    """
    if not isinstance(messages, list) or not all(
        isinstance(message, dict) and {"role", "content"} <= message.keys() for message in messages
    ):
        raise DataError(f'Expected a list of {{"role": ..., "content": ...}} in {where}, found {messages!r}.')
    if messages and messages[0]["role"] == "system" and not _content(messages[0], where).strip():
        messages = messages[1:]
    roles = [str(message["role"]) for message in messages[:2]]
    if "system" in roles:
        raise DataError(
            f"There is a system message in {where}, and prompts are encoded without one; "
            "move its text into the user message."
        )
    if roles != ["user", "assistant"][: len(roles)]:
        raise DataError(
            f"Expected a user message and an assistant message first in {where}, found {' and '.join(roles)}."
        )
    prompt, answer, *_ = [*(_content(message, where) for message in messages[:2]), "", ""]
    return prompt, answer


def _content(message: Mapping[str, Any], where: str) -> str:
    """A message's text; that of its parts if it is a list of them, all of type text."""
    content = message["content"]
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    ):
        return "".join(part["text"] for part in content)
    return text_of(content, where)
