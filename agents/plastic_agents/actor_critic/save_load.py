"""Files of models: all that is needed to go on, and nothing that runs when it is read."""

from __future__ import annotations

import os
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces, get_system_info

from plastic_agents.actor_critic.policy import RecurrentPolicy
from plastic_agents.checkpoint import checking_content, load_checkpoint, save_checkpoint
from plastic_agents.plain_data import from_plain, to_plain

Self = TypeVar("Self", bound="ModelFiles")

_POLICY = "RecurrentPolicy"
_NOT_SAVED = ("policy", "env", "device", "_init_setup_model")
# Arguments that are kept under another name.
_ATTRIBUTES = {"stats_window_size": "_stats_window_size"}
_PARTS = (
    *("policy_class", "observation_space", "action_space", "n_envs"),
    *("arguments", "counters", "parameters"),
)
_COUNTERS = ("num_timesteps", "_total_timesteps", "_n_updates", "_current_progress_remaining", "_episode_num")


class ModelFiles(OnPolicyAlgorithm):
    """`save` and `load` in place of Stable-Baselines3's, whose files are pickles."""

    def save(self, path: str | os.PathLike[str]) -> None:  # type: ignore[override]  # all that is needed, always
        """Write the model; ``.zip`` is added to a name without an ending. Files hold no code: `load` runs none."""
        arguments = {name: getattr(self, _ATTRIBUTES.get(name, name)) for name in _argument_names(type(self))}
        if self.policy.features_extractor_kwargs:
            # What followed from `VecNormalize` must hold where the model is loaded without it.
            extractor = {"features_extractor_kwargs": self.policy.features_extractor_kwargs}
            arguments["policy_kwargs"] = {**self.policy_kwargs, **extractor}
        save_checkpoint(
            _with_ending(path),
            type(self).__name__,
            {
                "policy_class": _POLICY if self.policy_class is RecurrentPolicy else to_plain(self.policy_class),
                "observation_space": to_plain(self.observation_space),
                "action_space": to_plain(self.action_space),
                "n_envs": self.n_envs,
                "arguments": to_plain(arguments),
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
        """Read a model that `save` wrote; nothing in the file is run.

        Args:
            path: the file; ``.zip`` may be left out.
            env: where it goes on learning; not needed for `predict`.
            device: where it computes.
            custom_objects: arguments to take instead of the file's, like ``kwargs``; also ``policy_class``.
            print_system_info: print versions of libraries first.
            force_reset: must be True: environments are always reset before learning goes on.
            **kwargs: arguments to take instead of the file's. Parts of ``policy_kwargs`` are taken one by one. What
                files do not keep has to be given here: functions, such as a schedule or one that makes a core.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is cut short or no such model, something that is not kept in files was not given, or
                ``env`` has other spaces.
        """
        if not force_reset:
            raise ValueError("force_reset must be True: the state inside an episode is not kept")
        if print_system_info:
            get_system_info()
        path = _with_ending(path)
        content = cls._read(path)
        given = {**(custom_objects or {}), **kwargs}
        policy_class = given.pop("policy_class", content["policy_class"])
        with checking_content(path, "cannot be loaded"):
            policy_kwargs = {**content["arguments"].pop("policy_kwargs"), **given.pop("policy_kwargs", {})}
            arguments = {
                name: from_plain(value, name)
                for name, value in {**content["arguments"], "policy_kwargs": policy_kwargs, **given}.items()
            }
            if env is not None:
                env = cls._wrap_env(env, arguments["verbose"])
            policy = from_plain(policy_class, "policy_class")
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
        """The content of a file, with its spaces as objects."""
        content = load_checkpoint(path, cls.__name__)
        with checking_content(path):
            for found, names in (
                (content, _PARTS),
                (content["arguments"], _argument_names(cls)),
                (content["counters"], _COUNTERS),
            ):
                if set(found) != set(names):
                    raise ValueError(f"it must hold {sorted(names)}, got {sorted(map(str, found))}")
            for name, value in content["counters"].items():
                if not isinstance(value, int | float):
                    raise ValueError(f"{name} must be a number, got {value!r}")
            for name in ("observation_space", "action_space"):
                content[name] = from_plain(content[name], name)
        return content

    def set_parameters(
        self, load_path_or_dict: Any, exact_match: bool = True, device: torch.device | str = "auto"
    ) -> None:
        """Take the parameters of a file that `save` wrote, or of what `get_parameters` returned."""
        if not isinstance(load_path_or_dict, dict):
            load_path_or_dict = self._read(_with_ending(load_path_or_dict))["parameters"]
        super().set_parameters(load_path_or_dict, exact_match, device)


def _argument_names(kind: type) -> list[str]:
    """What a constructor takes and files keep, with what it hands on as ``**kwargs`` to the class that it is of."""
    names = []
    for each in kind.__mro__:
        parameters = signature(each).parameters.values()
        names += [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD or p.kind is p.KEYWORD_ONLY]
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return [name for name in names if name not in _NOT_SAVED]


def _with_ending(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path if path.suffix else path.with_suffix(".zip")
