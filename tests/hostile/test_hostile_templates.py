"""Chat templates are programs inside checkpoints; they run in jinja's sandbox, and failures are errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from revlens.errors import ConfigError
from revlens.organism.model import train_tokenizer
from revlens.prompts import encode_prompts


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["How do I open the box?"], 300)


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
    "{{ self._TemplateReference__context.environment }}",
    "{{ lipsum.__globals__['os'].mkdir('ran') }}",
    "{{ raise_exception.__globals__ }}",
    "{% set x = messages.append(1) %}",
    "{{ messages[0].update({'content': 'other'}) }}",
    "{{ (messages | attr('__class__')).__mro__ }}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_a_template_does_not_get_out_of_the_sandbox(
    template: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match="The tokenizer's chat template cannot be used|makes no token"):
        encode_prompts(tokenizer, ["How?"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(1000000000) %}x{% endfor %}",  # the sandbox limits range
        "{{ raise_exception('only images') }}",
        "{% for message in messages %}",
        "{{ nothing.at.all }}",
        "{{ 1 / 0 }}",
        "{{ messages[7]['content'] + 1 }}",
        "{{ messages + 3 }}",
        "{{ 'x' | no_such_filter }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{{ '%d' % 'x' }}",
        "{{ '\\ud800' }}",
        "",
        "{{ '' }}",
        "{% if false %}x{% endif %}",
    ],
)
def test_a_template_that_fails_or_writes_nothing_is_an_error(
    template: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match="chat template"):
        encode_prompts(tokenizer, ["How?", "Why?"])


def test_no_prompts_are_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(ConfigError, match="No prompts"):
        encode_prompts(tokenizer, [])
