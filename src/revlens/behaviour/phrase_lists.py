"""Lists of refusal phrases: the published ones and the default, each a text file in `phrases/`."""

from __future__ import annotations

from pathlib import Path

from revlens.errors import ConfigError

_FOLDER = Path(__file__).parent / "phrases"

#: Names of the lists; each file begins with what the list is and its source.
PHRASE_LISTS = ("default", "gcg", "keywords", "refusal_direction", "xstest")


def read_phrases(name: str) -> tuple[str, ...]:
    """One of the lists that come with revlens, spelled as in its source.

    Raises:
        ConfigError: if there is no list of that name.
    """
    if name not in PHRASE_LISTS:
        raise ConfigError(
            f"No phrase list {name!r}; there are {', '.join(PHRASE_LISTS)}. "
            "Pass your own phrases to PhraseJudge as a tuple."
        )
    lines = (_FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))
