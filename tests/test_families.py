from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig
from transformers.pytorch_utils import Conv1D

from families import FAMILIES
from revlens.families import CONFIG_NAMES, outputs_first


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", ["family", "width", "MLP width", "layers", "heads"])
def test_config_json_has_one_of_the_names_of_each_size(family: str, size: str) -> None:
    config: dict[str, Any] = AutoConfig.for_model(model_type=family, **FAMILIES[family]).to_dict()
    names = [name for name in CONFIG_NAMES[size] if name in config]
    assert len(names) == 1
    assert config[names[0]] is not None


@pytest.mark.parametrize("module", [nn.Linear(2, 3), Conv1D(3, 2)], ids=["Linear", "Conv1D"])
def test_outputs_first_is_a_view_with_a_row_for_each_output_feature(module: Any) -> None:
    x = torch.randn(5, 2)
    matrix = outputs_first(module, module.weight)
    torch.testing.assert_close(module(x), x @ matrix.T + module.bias)
    assert matrix.data_ptr() == module.weight.data_ptr()
    assert torch.equal(outputs_first(module, matrix), module.weight)
