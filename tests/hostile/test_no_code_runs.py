"""Nothing in the package unpickles, evaluates text, or runs code from a checkpoint or through a shell.

The scan reads syntax trees, not words.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import revlens

ROOT = Path(revlens.__file__).parent
#: Never imported: they make objects out of bytes.
_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
    "yaml",
}
#: Never called, on any module or object.
_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "read_pickle",
    "to_pickle",
    "system",
    "popen",
}


def name_of(node: ast.expr) -> str:
    """``a.b.c`` of a name or an attribute; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def dangers(source: str) -> Iterator[str]:
    """Every dangerous import or call of a module, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (
                f"{node.lineno}: import {a.name}" for a in node.names if a.name.split(".")[0] in _MODULES
            )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in _MODULES:
            yield f"{node.lineno}: from {node.module} import"
        elif isinstance(node, ast.Call):
            yield from (f"{node.lineno}: {danger}" for danger in _dangers_of_call(node))


def _dangers_of_call(call: ast.Call) -> Iterator[str]:
    name = name_of(call.func)
    last = name.rpartition(".")[2]
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    # re.compile and torch.compile compile no Python text; model.eval() takes no argument.
    harmless = (last == "compile" and "." in name) or (last == "eval" and "." in name and not call.args)
    if last in _CALLS and not harmless:
        yield f"{name}()"
    if name == "torch.load" and not is_constant(given.get("weights_only"), True):
        yield "torch.load without weights_only=True"
    if "allow_pickle" in given and not is_constant(given["allow_pickle"], False):
        yield "allow_pickle"
    if "trust_remote_code" in given and not is_constant(given["trust_remote_code"], False):
        yield "trust_remote_code"
    if "shell" in given and not is_constant(given["shell"], False):
        yield "shell"
    if given.get("use_safetensors") is not None and not is_constant(given["use_safetensors"], True):
        yield "use_safetensors"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_runs_no_foreign_code(path: Path) -> None:
    assert list(dangers(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_mapping_of_settings_trusts_no_code_either(path: Path) -> None:
    """``from_pretrained(**{"trust_remote_code": True})`` is as dangerous."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                assert not is_key(key, "trust_remote_code") or is_constant(value, False)
                assert not is_key(key, "allow_pickle") or is_constant(value, False)


def is_key(node: ast.expr | None, key: str) -> bool:
    return isinstance(node, ast.Constant) and node.value == key


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import torch, pickle as p",
        "from pickle import loads",
        "import joblib.numpy_pickle",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
        "import yaml",
        "eval(text)",
        "builtins.eval(text)",
        "exec(text)",
        "compile(text, 'x', 'exec')",
        "__import__(name)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=trust)",
        "AutoModel.from_pretrained(path, use_safetensors=False)",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
        "os.popen(command)",
    ],
)
def test_the_scan_finds_each_danger(source: str) -> None:
    assert len(list(dangers(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()", "re.compile(text)", "torch.load(path, weights_only=True)", "np.load(path)",
        "AutoModel.from_pretrained(path, trust_remote_code=False)", "subprocess.run(command)",
        "'eval(x) and pickle.loads(y) in a string'",
    ],
)  # fmt: skip
def test_the_scan_lets_the_harmless_be(source: str) -> None:
    assert list(dangers(source)) == []
