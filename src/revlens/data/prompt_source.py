"""Prompts without answers from any table, list or text file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from revlens.data.table_source import TableSource, text_of


@dataclass(frozen=True)
class PromptSource(TableSource):
    """Prompts in a column of a table, in a JSON list of strings, or one a line in a .txt file.

    Attributes:
        column: column of the prompts. A JSON list of strings and a .txt file have the one column ``text``.
    """

    column: str = "text"

    def read(self, root: str | Path | None = None) -> tuple[str, ...]:
        """The prompts.

        Args:
            root: the folder that a relative path starts at, such as a configuration file's; the working
                directory if None.

        Raises:
            DataError: if the source cannot be read, lacks the column, or has an empty row.
        """
        texts = (
            (where, (text_of(cells["column"], where),))
            for where, cells in self.rows({"column": self.column}, root)
        )
        return tuple(text for (text,) in self.collect(texts))
