"""The codec of settings: round trips, and errors that name a missing, unknown or wrong field."""

import json
from dataclasses import dataclass, fields
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from plastic_agents import (
    CosineSchedule,
    Curriculum,
    LinearSchedule,
    NetworkConfig,
    Plasticity,
    ReinforcementConfig,
    SupervisedConfig,
)
from plastic_agents.models.image_encoders import EncoderConfig
from plastic_agents.plain_data import fits_type, from_plain, to_plain
from plastic_agents.training.learner import Progress

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
OBJECTS = [
    NetworkConfig("none", "lstm", 7, Plasticity(decay=0.1), EncoderConfig("conv-4", pretraining=3)),
    NetworkConfig("rls", plasticity=Plasticity(layers=("readout",))),
    SupervisedConfig(curriculum=Curriculum("delay", 1), evaluation_arguments={"split": "test", "sizes": [1, 2]}),
    ReinforcementConfig("a2c", n_epochs=1, batch_size=None, evaluation_arguments={"noise": 0.5}),
    Progress(3, 0.5, [{"step": 3, "metric": float("inf")}], [{"step": 1, "planned": 2}]),
    CosineSchedule(0.1),
    LinearSchedule(1, 0.5),
    spaces.Box(-1, np.array([[1, np.inf]], np.float32), (1, 2), np.float32),
    spaces.Box(0, 255, (2, 3, 1), np.uint8),
    spaces.Box(-0.1, 0.1, (), np.float64),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([[2, 3], [4, 5]], dtype=np.int32, start=[[0, 1], [2, 3]]),
    spaces.MultiBinary(3),
    spaces.MultiBinary([2, 3]),
    spaces.Dict([("z", spaces.Discrete(2)), ("a", spaces.Dict({"__kind__": spaces.MultiBinary(1)}))]),
]


@pytest.mark.parametrize("value", OBJECTS, ids=lambda value: type(value).__name__)
def test_round_trip_of_objects_through_json(value):
    plain = json.loads(json.dumps(to_plain({"nested": [value]}, "value")))
    (restored,) = from_plain(plain, "value")["nested"]
    assert restored == value
    assert type(restored) is type(value)
    if isinstance(value, spaces.Dict):
        assert list(restored.spaces) == list(value.spaces)


@given(PLAIN)
def test_round_trip_of_plain_values(value):
    if isinstance(value, dict) and "__kind__" in value:
        return
    assert from_plain(to_plain(value, "value"), "value") == value


def test_values_are_converted_to_python_types():
    value = {"a": (1, np.int32(2)), "b": np.float64(0.5), "c": np.bool_(True), "d": Path("x") / "y", "e": np.str_("z")}
    plain = to_plain(MappingProxyType(value), "value")
    assert plain == {"a": [1, 2], "b": 0.5, "c": True, "d": str(Path("x") / "y"), "e": "z"}
    assert [type(item) for item in (plain["a"][1], plain["b"], plain["c"], plain["e"])] == [int, float, bool, str]


@dataclass(frozen=True)
class UnregisteredConfig:
    """A dataclass that is not registered."""


UnregisteredConfig.__name__ = "NetworkConfig"


@pytest.mark.parametrize(
    "value",
    [
        len,
        {1},
        {1: 2},
        {"__kind__": "Box"},
        np.zeros(3),
        np.complex64(1),
        HTTPStatus.OK,
        UnregisteredConfig(),
        spaces.Tuple([]),
        spaces.Dict({"a": spaces.Text(3)}),
    ],
    ids=repr,
)
def test_unsupported_values_are_named_or_omitted(value):
    with pytest.raises(TypeError, match=r"settings\['a'\]\[1\].* must be plain data .*, got "):
        to_plain({"a": [0, value]}, "settings")
    plain = to_plain({"a": [0, value]}, "settings", omit=True)
    with pytest.raises(
        ValueError, match=r"the model was made with settings\['a'\]\[1\].* give it to load, as settings="
    ):
        from_plain(plain, "settings")


CONFIG = to_plain(SupervisedConfig(), "config")
BOX = to_plain(spaces.Box(0, 1, (2,)), "space")


@pytest.mark.parametrize(
    ("plain", "expected_type", "message"),
    [
        (
            {**CONFIG, "patience": 3},
            SupervisedConfig,
            r"config \(SupervisedConfig\) must hold .*unknown \['patience'\]",
        ),
        (
            {name: value for name, value in CONFIG.items() if name != "seed"},
            SupervisedConfig,
            r"missing \['seed'\], unknown \[\]",
        ),
        ({**CONFIG, "seed": "one"}, SupervisedConfig, "config.seed must be of type int, got 'one'"),
        ({**CONFIG, "seed": True}, SupervisedConfig, "config.seed must be of type int, got True"),
        ({**CONFIG, "seed": -1}, SupervisedConfig, r"config \(SupervisedConfig\) .* seed must be at least 0, got -1"),
        ({**CONFIG, "schedule": "linear"}, SupervisedConfig, "config.schedule must be of type .*Literal"),
        ({**CONFIG, "curriculum": BOX}, SupervisedConfig, r"config.curriculum must be of type .*Curriculum.*None"),
        (CONFIG, NetworkConfig, "config must be of type NetworkConfig, got"),
        ({**CONFIG, "__kind__": "Path"}, SupervisedConfig, "config is of the unknown class 'Path'"),
        ({**CONFIG, "__kind__": ["Path"]}, SupervisedConfig, "config is of the unknown class"),
        ({**BOX, "dtype": "O"}, spaces.Box, r"config \(Box\) cannot be made: "),
        ({**BOX, "dtype": "no type"}, spaces.Box, r"config \(Box\) cannot be made: "),
        ({**BOX, "low": [0]}, spaces.Box, r"config \(Box\) cannot be made: "),
        ({**BOX, "shape": 2}, spaces.Box, r"config.shape must be of type list\[int\], got 2"),
        ({"a": {1: 2}}, dict, r"config\['a'\] must be plain data, got \{1: 2\}"),
        ({"a": (1, 2)}, dict, r"config\['a'\] must be plain data, got \(1, 2\)"),
        ({"a": np.zeros(1)}, dict, r"config\['a'\] must be plain data, got array"),
    ],
)
def test_bad_content_is_named(plain, expected_type, message):
    with pytest.raises(ValueError, match=message):
        from_plain(plain, "config", expected_type)


@pytest.mark.parametrize(
    ("value", "expected_type", "fits"),
    [
        (1, int, True),
        (1, float, True),
        (1.0, int, False),
        (True, int, False),
        (True, float, False),
        (True, bool, True),
        (None, int | None, True),
        (None, None, True),
        (0, None, False),
        ({"a": [1]}, dict[str, list[int]], True),
        ({"a": ["1"]}, dict[str, list[int]], False),
        ({1: [1]}, dict[str, list[int]], False),
        ([1], dict, False),
        (("a", "b"), tuple[str, ...] | None, True),
        ((), tuple[str, ...], True),
        (("a", 1), tuple[str, ...], False),
        (["a"], tuple[str, ...], False),
    ],
)
def test_fits_type(value, expected_type, fits):
    assert fits_type(value, expected_type) is fits


def test_every_field_of_a_configuration_is_stored():
    for value in OBJECTS[:3]:
        assert set(to_plain(value, "value")) == {"__kind__", *(field.name for field in fields(value))}
