from typing import NamedTuple

import pytest
import torch
from plastic_agents import NetworkConfig
from plastic_agents.integrations.nested_state import from_nested, to_nested


class Pair(NamedTuple):
    first: torch.Tensor
    second: object


STATES = {
    "tensor": torch.ones(2, 3),
    "named tuple": Pair(torch.ones(2, 3), None),
    "mixed": {"a": (torch.ones(2), torch.zeros(2)), "b": [Pair(torch.ones(2), torch.zeros(2, 1))]},
    **{
        f"{rule} {cell}": NetworkConfig(rule, cell, hidden_size=4).make_core(3, 2).initial_state(2)
        for rule in ("hebbian", "gradient", "none")
        for cell in ("rnn", "lstm")
    },
}


def is_same(a, b):
    if isinstance(a, torch.Tensor) or a is None:
        return a is b
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(is_same(a[name], b[name]) for name in a)
    return type(a) is type(b) and all(map(is_same, a, b))


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_from_nested_undoes_to_nested(state):
    nested = to_nested(state)
    assert only_dicts_and_tensors(nested)
    assert is_same(from_nested(nested, state), state)


def only_dicts_and_tensors(nested):
    if isinstance(nested, dict):
        return all(isinstance(name, str) and only_dicts_and_tensors(value) for name, value in nested.items())
    return isinstance(nested, torch.Tensor)


def test_keys_are_the_names_of_fields():
    nested = to_nested(STATES["gradient lstm"])
    assert list(nested) == ["hidden", "fast"]
    assert list(nested["hidden"]) == ["h", "c"]
    assert nested["fast"]["hidden_to_hidden"]["weight"].shape == (2, 4, 16)
