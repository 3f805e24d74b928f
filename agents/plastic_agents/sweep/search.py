"""Random search: distributions of settings, and the settings that a sweep draws from them."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from plastic_agents.seeding import Stream, stream_rng
from plastic_envs.validation import real_number, whole_number

_FORMS = "log:LOW,HIGH, uniform:LOW,HIGH, int:LOW,HIGH or choice:VALUE,VALUE,..."
_DIGITS = 4  # significant digits of drawn numbers, which stay readable in tables and names of folders
_DRAWS_PER_TRIAL = 1000  # draws after which a space counts as exhausted

Distribution = Callable[[np.random.Generator], Any]


@dataclass(frozen=True)
class Search:
    """A random search with a budget, which is the same for every recipe of a sweep.

    Attributes:
        space: distributions by the path of a setting of ``network.`` or ``training.``: ``"log:1e-3,1e-2"`` (uniform in
            the logarithm), ``"uniform:0,0.5"``, ``"int:1,4"`` (whole numbers, both ends included) or
            ``"choice:0.0,0.02,0.05"``. Drawn real numbers have four significant digits.
        trials: number of different settings to draw for each recipe.
        seed: seed of the draws.

    Raises:
        TypeError: a number has the wrong type.
        ValueError: the space is empty, a distribution cannot be read or is empty, or a number is out of range.
    """

    space: Mapping[str, str]
    trials: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.space:
            raise ValueError("search must have one or more settings with their distributions, got none")
        whole_number("trials", self.trials, at_least=1)
        whole_number("search_seed", self.seed, at_least=0)
        for path, text in self.space.items():
            _distribution(path, text)

    def draw(self, paths: Collection[str]) -> list[dict[str, Any]]:
        """Draw different settings, as many as the search has trials.

        The draws depend on the space and the seed alone, so recipes that use the same settings try the same values.

        Args:
            paths: the settings that the network uses; the function leaves out the other ones.

        Raises:
            ValueError: the space has fewer different values of these settings than the search has trials.
        """
        rng = stream_rng(Stream.SEARCH, self.seed)
        distributions = {path: _distribution(path, text) for path, text in self.space.items()}
        drawn: list[dict[str, Any]] = []
        for _ in range(_DRAWS_PER_TRIAL * self.trials):
            values = {path: distribution(rng) for path, distribution in distributions.items()}
            candidate = {path: value for path, value in values.items() if path in paths}
            if candidate not in drawn:
                drawn.append(candidate)
            if len(drawn) == self.trials:
                return drawn
        raise ValueError(
            f"trials must be at most {len(drawn)}, the number of different values that the search has for "
            f"{', '.join(paths) or 'no setting that this network uses'}, got {self.trials}"
        )


def read_value(text: str) -> Any:
    """Return a Python literal, or the text itself: names and paths need no quotes."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def read_values(text: str) -> list[Any]:
    """Return the values of a list such as ``1e-3,3e-3`` or ``rnn,lstm``."""
    values = read_value(text)
    if isinstance(values, str):  # words, perhaps with numbers among them
        return [read_value(value) for value in values.split(",")] if values else []
    return list(values) if isinstance(values, tuple) else [values]


def _distribution(path: str, text: str) -> Distribution:
    """Return the function that draws a value of a setting.

    Raises:
        ValueError: the text has another form, or the distribution is empty.
    """
    kind, _, values_text = text.partition(":") if isinstance(text, str) else ("", "", "")
    if kind not in ("log", "uniform", "int", "choice"):
        raise ValueError(f"search of {path} must be {_FORMS}, got {text!r}")
    values = read_values(values_text)
    if kind == "choice":
        if not values or any(value in values[:i] for i, value in enumerate(values)):
            raise ValueError(f"search of {path} must be choice: with one or more values, each once, got {text!r}")
        return lambda rng: values[rng.integers(len(values))]
    expected = f"search of {path} must be {kind}:LOW,HIGH with {'0 < ' * (kind == 'log')}LOW < HIGH"
    try:
        if kind == "int":
            first, last = (whole_number("a bound", value, at_least=-(2**62), at_most=2**62) for value in values)
            if first < last:
                return lambda rng: int(rng.integers(first, last + 1))
        else:
            low, high = (real_number("a bound", value) for value in values)
            if low < high and (kind == "uniform" or low > 0):
                return lambda rng: _draw_real(rng, low, high, is_log=kind == "log")
    except (TypeError, ValueError):  # the values are not two finite numbers
        pass
    raise ValueError(f"{expected}{' as whole numbers' * (kind == 'int')}, got {text!r}")


def _draw_real(rng: np.random.Generator, low: float, high: float, *, is_log: bool) -> float:
    value = math.exp(rng.uniform(math.log(low), math.log(high))) if is_log else rng.uniform(low, high)
    return min(max(float(f"{value:.{_DIGITS}g}"), low), high)
