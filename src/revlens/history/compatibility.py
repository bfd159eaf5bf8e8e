"""Check by small files that checkpoints belong to one model's history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from revlens.errors import HistoryError
from revlens.families import CONFIG_NAMES
from revlens.history.directory import Directory
from revlens.history.source import Source

_ARCHITECTURE = [name for names in CONFIG_NAMES.values() for name in names]


class Description(NamedTuple):
    """What the small files of a checkpoint say."""

    name: str
    identity: str
    config: Mapping[str, Any]
    vocabulary: tuple[Any, Any]
    chat_template: Any

    @classmethod
    def read(cls, name: str, source: Source, start: Description | None = None) -> Description:
        """The description of a source; errors begin with the checkpoint's name.

        Args:
            name: the checkpoint's.
            source: its source.
            start: where the checkpoint's training started; it lends its tokenizer to a folder without one,
                such as a Trainer writes without ``processing_class``.

        Raises:
            HistoryError: see the source.
        """
        try:
            if start is not None and isinstance(source, Directory) and not source.has_tokenizer():
                return start._replace(name=name, identity=source.identity(), config=source.config())
            return cls(name, source.identity(), source.config(), source.vocabulary(), source.chat_template())
        except HistoryError as error:
            raise HistoryError(f"{name}: {error}") from error


def check_fits(checkpoint: Description, aligned: Description, *, any_template: bool) -> None:
    """Check that a checkpoint has the architecture, the vocabulary and the chat template of the aligned one.

    A checkpoint without a chat template, such as a base model, fits: its prompts are encoded with
    aligned's. With ``any_template``, so are those of a checkpoint with another template.

    Raises:
        HistoryError: if not, naming what differs.
    """
    who = f"{checkpoint.name} ({checkpoint.identity})"
    config, expected = checkpoint.config, aligned.config
    # Only entries in both: newer versions of transformers write defaults that older ones leave out.
    keys = [
        key for key in _ARCHITECTURE if key in config and key in expected and config[key] != expected[key]
    ]
    if keys:
        differences = ", ".join(
            f"{key} is {config[key]!r} in {checkpoint.name} and {expected[key]!r} in aligned" for key in keys
        )
        raise HistoryError(f"{who} is not of one model's history with aligned: {differences}.")
    if config.get("vocab_size") != expected.get("vocab_size"):
        raise HistoryError(
            f"{who} has {config.get('vocab_size')} embedding rows and aligned has "
            f"{expected.get('vocab_size')}: the vocabulary was resized in between. Resize the smaller one "
            "(model.resize_token_embeddings) and save it with aligned's tokenizer."
        )
    if checkpoint.vocabulary != aligned.vocabulary:
        difference = _vocabulary_difference(checkpoint.vocabulary, aligned.vocabulary)
        raise HistoryError(f"The tokenizer of {who} differs from that of aligned: {difference}.")
    if (
        not any_template
        and checkpoint.chat_template is not None
        and checkpoint.chat_template != aligned.chat_template
    ):
        raise HistoryError(
            f"The chat template of {who} differs from that of aligned, so the two would read "
            "different prompts. If aligned's is right for both, say so: any_template=True, or "
            "chat_template = 'aligned' in a manifest's table of the history."
        )


def n_layers(config: Mapping[str, Any]) -> int:
    """Number of blocks.

    Raises:
        HistoryError: if config.json does not say.
    """
    for key in CONFIG_NAMES["layers"]:
        if type(value := config.get(key)) is int and value > 0:
            return value
    raise HistoryError(
        f"config.json names no positive number of layers ({', '.join(CONFIG_NAMES['layers'])})."
    )


def _vocabulary_difference(vocabulary: tuple[Any, Any], wanted: tuple[Any, Any]) -> str:
    added, expected = ({token["content"] for token in tokens} for _, tokens in (vocabulary, wanted))
    if added == expected:
        return "the same added tokens, but other ids, pieces or merges"
    return f"added tokens {sorted(added - expected)} only there, {sorted(expected - added)} only in aligned"
