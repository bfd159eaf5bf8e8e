"""The manifest of a store: what it holds, and what each of its shards must be."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from revlens.errors import FileError, ResultsError
from revlens.storage import read_json, write_text

MANIFEST = "manifest.json"
FORMAT = "revlens activations, version 3"
#: How numbers may be stored.
DTYPES = ("float32", "bfloat16")
#: Of each prompt's token ids: enough to tell two prompts apart.
DIGITS = 8
#: More shards than this do not fit into the largest file that `read_json` takes.
MAX_SHARDS = 10**6
#: Checkpoints and splits name files, so their names hold nothing that could lead out of the folder.
_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"
_SHARD = re.compile(rf"({_NAME})\.({_NAME})\.([0-9]{{5,7}})\.safetensors")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Shard:
    """Consecutive prompts of one split under one checkpoint: what one file holds."""

    checkpoint: str
    split: str
    index: int

    @property
    def file(self) -> str:
        return f"{self.checkpoint}.{self.split}.{self.index:05d}.safetensors"


class Entry(NamedTuple):
    """What a shard's file must be.

    Attributes:
        n_bytes: size of the file.
        sha256: of the whole file, hex.
        shape: of its activations: ``[layer, row, d_model]``.
    """

    n_bytes: int
    sha256: str
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Manifest:
    """What a store holds, and which of its shards are there.

    Attributes:
        checkpoints: where the weights of each come from (`Source.identity`), in history order.
        splits: prompt counts by probe split.
        probes: `Probes.fingerprint` of each split.
        tokens: `fingerprint_of_rows` of each split: the token ids of its prompts, hashed.
        template_date: the date that the chat template read; None if it reads none.
        layers: in the order of the layer axis.
        component: see `Sites`.
        positions: ``last`` or ``mean``: a row per prompt; ``all``: a row per prompt token.
        computed: dtype of the model's weights.
        dtype: of the stored numbers; one of `DTYPES`.
        shard_prompts: prompts a shard holds; the last one of a split may hold fewer.
        weights: `Source.fingerprint` of each captured checkpoint.
        shards: the files that are whole, by name.
    """

    checkpoints: Mapping[str, str]
    splits: Mapping[str, int]
    probes: Mapping[str, str]
    layers: tuple[int, ...]
    component: str
    positions: str
    computed: str
    dtype: str
    shard_prompts: int
    tokens: Mapping[str, str] = field(default_factory=dict)
    template_date: str | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    shards: Mapping[str, Entry] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> Manifest:
        """Read a store's manifest.

        Raises:
            ResultsError: if there is none, it is damaged or of another version, or it names files that are no
                shards of its store.
        """
        path = root / MANIFEST
        if not path.is_file():
            raise ResultsError(f"No captured activations in {root}: run capture first.")
        if not path.resolve().is_relative_to(root.resolve()):
            raise ResultsError(
                f"{path} is a link to {path.resolve()}, outside its folder; "
                "put a copy of the file there if it is meant."
            )
        try:
            content = read_json(path)
        except FileError as error:
            raise ResultsError(f"{path} cannot be read ({error}); {_REMEDY}.") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = repr(content.get("format") if isinstance(content, dict) else content)
            raise ResultsError(
                f"{path} is of format {found[:80]}, and this version of revlens reads {FORMAT!r} only; "
                f"{_REMEDY}."
            )
        manifest = cls._of(content, path)
        # Compared byte for byte, so that a change of any byte is found, of a checksum or a line end too.
        if path.read_bytes() != manifest.render().encode():
            raise ResultsError(
                f"{path} does not match its own checksum: it was changed or damaged; {_REMEDY}."
            )
        return manifest

    @classmethod
    def _of(cls, content: dict[str, Any], path: Path) -> Manifest:
        fields = {key: value for key, value in content.items() if key not in ("format", "sha256")}
        wrong = [key for key, holds in _FIELDS.items() if key not in fields or not holds(fields[key])]
        wrong += [key for key in fields if key not in _FIELDS]
        if wrong:
            value = repr(fields.get(wrong[0], "nothing"))
            raise ResultsError(
                f"{path} holds {value[:80]} as {wrong[0]!r}, "
                f"which is not what a manifest of activations says; {_REMEDY}."
            )
        shards = {
            name: Entry(n, sha256, tuple(shape)) for name, (n, sha256, shape) in fields.pop("shards").items()
        }
        manifest = cls(**fields | {"layers": tuple(fields["layers"])}, shards=shards)
        if manifest.probes.keys() != manifest.splits.keys():
            raise ResultsError(
                f"{path} has splits {list(manifest.splits)} and fingerprints of {list(manifest.probes)}; "
                f"{_REMEDY}."
            )
        wrong = [
            split
            for split, digits in manifest.tokens.items()
            if len(digits) != DIGITS * manifest.splits.get(split, -1)
        ]
        if wrong:
            raise ResultsError(
                f"{path} has {len(manifest.tokens[wrong[0]])} digits for the token ids of {wrong[0]!r}, "
                "expected "
                f"{DIGITS} a prompt; {_REMEDY}."
            )
        if sum(map(manifest.n_of, manifest.splits)) * len(manifest.checkpoints) > MAX_SHARDS:
            raise ResultsError(
                f"{path} tells of more than {MAX_SHARDS} shards, which no manifest can list; {_REMEDY}."
            )
        for name, entry in shards.items():
            manifest._check_entry(name, entry, path)
        return manifest

    def _check_entry(self, name: str, entry: Entry, path: Path) -> None:
        match = _SHARD.fullmatch(name)
        shard = Shard(match[1], match[2], int(match[3])) if match else None
        if (
            shard is None
            or shard.file != name
            or shard.checkpoint not in self.checkpoints
            or not 0 <= shard.index < self.n_of(shard.split)
        ):
            raise ResultsError(f"{path} lists {name!r}, which is no shard of its store; {_REMEDY}.")
        n_prompts = len(self.prompts_of(shard))
        rows_fit = entry.shape[1] >= n_prompts if self.positions == "all" else entry.shape[1] == n_prompts
        if entry.shape[0] != len(self.layers) or not rows_fit:
            expected = f"{len(self.layers)} layers and {n_prompts} prompts"
            raise ResultsError(
                f"{path} gives {name} the shape {list(entry.shape)}; {expected} were expected; {_REMEDY}."
            )

    def render(self) -> str:
        """The manifest as a file: JSON that ends with a checksum of the rest."""
        by_name = {"weights": dict(sorted(self.weights.items())), "shards": dict(sorted(self.shards.items()))}
        content = {"format": FORMAT} | vars(self) | by_name
        text = json.dumps(content, indent=1).removesuffix("\n}")
        return f'{text},\n "sha256": "{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n'

    def write(self, root: Path) -> None:
        """Put it into the store's folder, atomically."""
        write_text(root / MANIFEST, self.render())

    def n_of(self, split: str) -> int:
        """Shards of a split under one checkpoint."""
        return -(-self.splits.get(split, 0) // self.shard_prompts)

    def first_other_tokens(self, other: Manifest) -> tuple[str, int] | None:
        """Split and index of the first prompt whose token ids differ; None if they all agree."""
        for split in self.tokens.keys() & other.tokens.keys():
            ours, theirs = self.tokens[split], other.tokens[split]
            for i in range(min(len(ours), len(theirs)) // DIGITS):
                if ours[DIGITS * i : DIGITS * (i + 1)] != theirs[DIGITS * i : DIGITS * (i + 1)]:
                    return split, i
        return None

    def prompts_of(self, shard: Shard) -> range:
        """Which prompts of its split a shard holds."""
        first = shard.index * self.shard_prompts
        return range(first, min(first + self.shard_prompts, self.splits[shard.split]))

    def is_there(self, root: Path, shard: Shard) -> bool:
        """Whether a shard has an entry, and a file of the size that this gives; the content is not read."""
        entry, path = self.shards.get(shard.file), root / shard.file
        return entry is not None and path.is_file() and path.stat().st_size == entry.n_bytes

    def shards_of(self, checkpoint: str) -> Iterator[Shard]:
        """Shards that a checkpoint must have, in the order in which they are written."""
        return (Shard(checkpoint, split, index) for split in self.splits for index in range(self.n_of(split)))


def fingerprint_of_rows(rows: Sequence[Sequence[int]]) -> str:
    """The first digits of each row's SHA-256, one row after the other."""
    return "".join(hashlib.sha256(",".join(map(str, row)).encode()).hexdigest()[:DIGITS] for row in rows)


_REMEDY = "delete the folder and run capture again"


def _is_number(value: Any) -> bool:
    return type(value) is int and value >= 0  # True is an int as well


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _is_hex(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]*", value) is not None


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(re.fullmatch(_NAME, key) for key in value)


def _is_entry(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 3:
        return False
    n_bytes, sha256, shape = value
    return (
        _is_number(n_bytes)
        and _is_digest(sha256)
        and isinstance(shape, list)
        and len(shape) == 3
        and all(map(_is_number, shape))
    )


#: What each field may hold.
_FIELDS = {
    "checkpoints": lambda value: (
        _is_table(value) and all(isinstance(source, str) for source in value.values())
    ),
    "splits": lambda value: _is_table(value) and all(map(_is_number, value.values())),
    "probes": lambda value: _is_table(value) and all(map(_is_digest, value.values())),
    "tokens": lambda value: _is_table(value) and all(map(_is_hex, value.values())),
    "template_date": lambda value: value is None or isinstance(value, str),
    "layers": lambda value: isinstance(value, list) and len(value) > 0 and all(map(_is_number, value)),
    "component": lambda value: isinstance(value, str),
    "positions": lambda value: value in ("last", "mean", "all"),
    "computed": lambda value: isinstance(value, str),
    "dtype": lambda value: value in DTYPES,
    "shard_prompts": lambda value: _is_number(value) and value > 0,
    "weights": lambda value: _is_table(value) and all(isinstance(digest, str) for digest in value.values()),
    "shards": lambda value: isinstance(value, dict) and all(map(_is_entry, value.values())),
}
