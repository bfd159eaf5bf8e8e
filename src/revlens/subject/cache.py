"""The keys of caches and outputs.

A key is a hash over a configuration, the versions of the libraries that compute, and revlens' own code as far
as it can change the stored numbers: a stored number never outlives a change to the code behind it. Code is
hashed as syntax: comments, layout and docstrings do not count, nor do doors (`__init__` modules that only
re-export), nor the parts of the package that `LEFT_OUT` names with a reason each. Whatever is not named there
counts, a new module too, and the text of a message.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import revlens

#: What a key is for: the files of an experiment, the checkpoints of a benign fine-tune, or those of a start.
Kind = Literal["output", "finetune", "start"]

#: By kind, the parts of the package that cannot change its numbers, and why; each kind also leaves out those
#: of the kinds before it. Patterns are matched in order, the last match decides, and ``!`` takes a part in
#: again.
LEFT_OUT: Mapping[Kind, Mapping[str, str]] = {
    "output": {
        "errors.py": "messages",
        "__init__.py": "public names",
        "cli/*": "which verb runs on which configuration; the configuration is in the key",
        "figures/*": "drawn from tables, and drawn again by every report",
        "audit/*": "compares what is stored, and stores nothing",
        "*/claims.py": "verdicts from tables, assessed again by every analysis",
        "*_claims.py": "the same",
        "experiment/llm.py": "makes a configuration, which is in the key",
        "experiment/manifest.py": "reads one",
        "screening/*": "scores rows before training; no experiment reads them",
        "experiment/plans.py": "names the modules of every stage; they count themselves",
        "experiment/cost.py": "what an experiment will take",
        "experiment/pooling.py": "joins tables that are made",
        "experiment/remaining.py": "what an experiment has left to do",
        "results/*": "tables and configurations as files",
        "storage/*": "bytes on disk: whole, locked, with checksums",
        "sweeps/*": "on which process or machine a task runs",
        "!sweeps/worker.py": "sets threads and deterministic algorithms, which decide last digits",
    },
    "finetune": {
        "behaviour/*": "generates and judges; trains nothing",
        "causal/*": "intervenes at inference; trains nothing",
        "statistics.py": "estimates over runs; trains nothing",
        "experiment/*": "what is asked of fine-tunes",
        "!experiment/guarded.py": "which guard a fine-tune gets",
        "!experiment/arms/finetune.py": "trains the arms",
    },
    "start": {
        "experiment/*": "decides which guard a fine-tune gets; a start has none",
        "direction/*": "v_rev and nulls, for guards and tables",
        "activations/*": "read for v_rev, and by guards",
    },
}
_LIBRARIES = ("torch", "transformers", "transformer-lens", "tokenizers", "peft")
_PACKAGE = Path(revlens.__file__).parent


def cache_key(*parts: object, kind: Kind = "output") -> str:
    """Sixteen hex digits over a configuration and everything that turns it into numbers of this kind."""
    versions = [version(name) for name in _LIBRARIES] + [source_digest(kind)]
    text = json.dumps([parts, versions], sort_keys=True, default=asdict)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache  # every fine-tune asks for its folder, again and again
def source_digest(kind: Kind = "output", package: Path = _PACKAGE) -> str:
    """SHA-256 (hex) over the parts of revlens' source that can change the numbers of this kind.

    Args:
        kind: of the numbers.
        package: folder of the package.
    """
    counting = [digest for name, digest in _digests(package).items() if _counts(name, kind)]
    return hashlib.sha256("".join(counting).encode()).hexdigest()


def _counts(name: str, kind: Kind) -> bool:
    counts = True
    for of, patterns in LEFT_OUT.items():
        for pattern in patterns:
            if fnmatch(name, pattern.removeprefix("!")):
                counts = pattern.startswith("!")
        if of == kind:
            break
    return counts


@functools.cache
def _digests(package: Path) -> dict[str, str]:
    """By file of the package, a hash of its name and of what it does; doors are not among them."""
    digests = {}
    for path in sorted(path for path in package.rglob("*") if path.suffix in (".py", ".txt", ".json")):
        name = path.relative_to(package).as_posix()
        meaning = _syntax(path) if path.suffix == ".py" else _lines(path)
        if meaning is not None:
            digests[name] = hashlib.sha256(f"{name}\n{meaning}".encode()).hexdigest()
    return digests


def _syntax(path: Path) -> str | None:
    """A module's syntax tree as text, without docstrings; None for a door."""
    tree = ast.parse(path.read_bytes())
    statements = [statement for statement in tree.body if not _is_docstring(statement)]
    if path.name == "__init__.py" and all(isinstance(s, ast.Import | ast.ImportFrom) for s in statements):
        return None
    return "\n".join(_written(tree))


def _written(tree: ast.AST) -> list[str]:
    """A syntax tree, depth first: `ast.dump` without docstrings and places, in half its time.

    Not recursive: in tests every call is type checked, which took five seconds of each process.
    """
    parts: list[str] = []
    to_write: list[object] = [tree]
    while to_write:
        value = to_write.pop()
        if isinstance(value, ast.AST):
            parts.append(type(value).__name__)
            to_write += [getattr(value, field, None) for field in reversed(value._fields)]
        elif isinstance(value, list):
            parts.append("[")
            to_write.append(_LIST_ENDS)
            to_write += [i for i in reversed(value) if not (isinstance(i, ast.Expr) and _is_docstring(i))]
        else:
            parts.append("]" if value is _LIST_ENDS else repr(value))
    return parts


_LIST_ENDS = object()


def _is_docstring(node: object) -> bool:
    """Whether a statement is nothing but a string."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _lines(path: Path) -> str:
    """A data file, such as a list of phrases, without comments and blank lines."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line and not line.startswith("#"))
