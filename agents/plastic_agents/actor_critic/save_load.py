"""Saving and loading of `RecurrentPPO` and `RecurrentA2C`, in files that suffice to resume and cannot run code."""

from __future__ import annotations

import os
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import torch
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces, get_system_info

from plastic_agents.actor_critic.policy import RecurrentPolicy
from plastic_agents.checkpoint import checking_content, load_checkpoint, save_checkpoint
from plastic_agents.plain_data import from_plain, to_plain

Self = TypeVar("Self", bound="ModelFiles")

_POLICY = "RecurrentPolicy"
_NOT_SAVED = ("policy", "env", "device", "_init_setup_model")
# Arguments that are stored as attributes of another name.
_ATTRIBUTES = {"stats_window_size": "_stats_window_size"}
_KEYS = (
    *("policy_class", "observation_space", "action_space", "n_envs"),
    *("arguments", "counters", "parameters"),
)
_COUNTERS = ("num_timesteps", "_total_timesteps", "_n_updates", "_current_progress_remaining", "_episode_num")


class ModelFiles(OnPolicyAlgorithm):
    """`save` and `load` in place of Stable-Baselines3's, whose files are pickles."""

    def save(self, path: str | os.PathLike[str]) -> None:  # type: ignore[override]  # no choice of contents
        """Write the model; ``.zip`` is added to a name without a suffix. Files hold no code, so `load` runs none."""
        arguments = {name: getattr(self, _ATTRIBUTES.get(name, name)) for name in _argument_names(type(self))}
        if self.policy.features_extractor_kwargs:
            # These depend on `VecNormalize`, without which the model may be loaded.
            extractor = {"features_extractor_kwargs": self.policy.features_extractor_kwargs}
            arguments["policy_kwargs"] = {**self.policy_kwargs, **extractor}
        save_checkpoint(
            _with_ending(path),
            type(self).__name__,
            {
                "policy_class": _POLICY
                if self.policy_class is RecurrentPolicy
                else to_plain(self.policy_class, "policy_class", omit=True),
                "observation_space": to_plain(self.observation_space, "observation_space"),
                "action_space": to_plain(self.action_space, "action_space"),
                "n_envs": self.n_envs,
                "arguments": {name: to_plain(value, name, omit=True) for name, value in arguments.items()},
                "counters": {name: getattr(self, name) for name in _COUNTERS},
                "parameters": self.get_parameters(),
            },
        )

    @classmethod
    def load(  # type: ignore[override]  # of paths only
        cls: type[Self],
        path: str | os.PathLike[str],
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Read a model that `save` wrote, without running code from the file.

        Args:
            path: the file; you may leave out ``.zip``.
            env: environment of further training; `predict` does not need it.
            device: device of the model.
            custom_objects: arguments that replace the file's, like ``kwargs``; also ``policy_class``.
            print_system_info: whether to print the versions of libraries.
            force_reset: must be True: environments are always reset before training continues.
            **kwargs: arguments that replace the file's; those in ``policy_kwargs`` replace the file's one by one.
                Files cannot hold functions, such as a schedule or one that makes a core: give these here.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or holds no model of this class, an argument that files cannot hold is
                missing, or ``env`` has other spaces.
        """
        if not force_reset:
            raise ValueError("force_reset must be True: files do not hold the state inside an episode")
        if print_system_info:
            get_system_info()
        path = _with_ending(path)
        content = cls._read(path)
        replaced = {**(custom_objects or {}), **kwargs}
        with checking_content(path, "cannot be loaded"):
            policy = replaced.pop("policy_class", None) or from_plain(content["policy_class"], "policy_class")
            arguments = _read_arguments(content["arguments"], replaced)
            if env is not None:
                env = cls._wrap_env(env, arguments["verbose"])
            model = cls(policy, env, device=device, _init_setup_model=False, **arguments)  # type: ignore[arg-type]  # env may be None
            observation_space, action_space = content["observation_space"], content["action_space"]
            if env is None:
                model.observation_space, model.action_space = observation_space, action_space
                model.n_envs = content["n_envs"]
            else:
                check_for_correct_spaces(env, observation_space, action_space)
            model._setup_model()
        with checking_content(path, f"is of another policy than {model.policy}"):
            model.set_parameters(content["parameters"], device=device)
        for name, value in content["counters"].items():
            setattr(model, name, value)
        return model

    @classmethod
    def _read(cls, path: Path) -> dict[str, Any]:
        """Return the content of a file, with its spaces as objects."""
        content = load_checkpoint(path, cls.__name__)
        with checking_content(path):
            for values, names in (
                (content, _KEYS),
                (content["arguments"], _argument_names(cls)),
                (content["counters"], _COUNTERS),
            ):
                if set(values) != set(names):
                    raise ValueError(f"it must hold {sorted(names)}, got {sorted(map(str, values))}")
            for name, value in content["counters"].items():
                if not isinstance(value, int | float):
                    raise ValueError(f"{name} must be a number, got {value!r}")
            for name in ("observation_space", "action_space"):
                content[name] = from_plain(content[name], name, spaces.Space)
        return content

    def set_parameters(
        self, load_path_or_dict: Any, exact_match: bool = True, device: torch.device | str = "auto"
    ) -> None:
        """Set the parameters to those of a file that `save` wrote, or to a dict that `get_parameters` returned."""
        if not isinstance(load_path_or_dict, dict):
            load_path_or_dict = self._read(_with_ending(load_path_or_dict))["parameters"]
        super().set_parameters(load_path_or_dict, exact_match, device)


def _read_arguments(stored: dict[str, Any], replaced: dict[str, Any]) -> dict[str, Any]:
    """Return the constructor's arguments: the stored ones that are not replaced, and the replacements."""
    policy_kwargs = replaced.get("policy_kwargs", {})
    # A stored argument that is replaced is not read: it may be one that files cannot hold.
    arguments = {
        name: from_plain(value, name)
        for name, value in stored.items()
        if name not in replaced and name != "policy_kwargs"
    }
    stored_policy_kwargs = {name: value for name, value in stored["policy_kwargs"].items() if name not in policy_kwargs}
    return {
        **arguments,
        **replaced,
        "policy_kwargs": {**from_plain(stored_policy_kwargs, "policy_kwargs", dict[str, Any]), **policy_kwargs},
    }


def _argument_names(algorithm: type) -> list[str]:
    """Return the names of the constructor's arguments that files hold, with those of bases that ``**kwargs`` go to."""
    names = []
    for class_ in algorithm.__mro__:
        parameters = signature(class_).parameters.values()
        names += [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD or p.kind is p.KEYWORD_ONLY]
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return [name for name in names if name not in _NOT_SAVED]


def _with_ending(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path if path.suffix else path.with_suffix(".zip")
