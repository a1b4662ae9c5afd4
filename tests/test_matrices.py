"""The matrices hold exactly the model's parameters."""

from __future__ import annotations

import pytest

from sdsim import matrices
from sdsim.matrices import Matrix
from sdsim.models import load_model, model_names


def size(*found):
    return sum(m.inputs * m.outputs for m in found)


@pytest.mark.parametrize("name", model_names())
def test_matrices_hold_the_models_parameters(name):
    model = load_model(name)
    assert size(*matrices.attention(model)) == model.attention_parameters
    assert size(matrices.head(model)) == model.head_parameters
    assert size(*matrices.feed_forward(model.hidden, model.intermediate)) == model.dense_ffn_parameters
    if model.is_moe:
        assert size(matrices.router(model)) == model.router_parameters
    if model.shared_intermediate:
        assert size(*matrices.shared_expert(model)) == model.shared_parameters


def test_sharding_divides_one_side():
    assert Matrix(100, 60, "outputs").on_one_of(4) == Matrix(100, 15, "outputs")
    assert Matrix(100, 60, "inputs").on_one_of(4) == Matrix(25, 60, "inputs")
    assert Matrix(100, 60).on_one_of(4) == Matrix(100, 60)
    assert Matrix(100, 1, "outputs").on_one_of(4).outputs == 1
