"""Saving and loading of `RecurrentPPO` and `RecurrentA2C`, in files that suffice to resume and cannot run code."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from inspect import signature
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces, get_system_info
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
from torch import nn

from plastic_agents.actor_critic.schedules import check_schedule
from plastic_agents.checkpoint import (
    checking_content,
    checkpoint_bytes,
    checkpoint_content,
    load_checkpoint,
    save_checkpoint,
)
from plastic_agents.plain_data import from_plain, register_class, to_plain
from plastic_envs.validation import flag

Self = TypeVar("Self", bound="ModelFiles")

_NOT_SAVED = ("policy", "env", "device", "_init_setup_model")
# Arguments that are stored as attributes of another name.
_ATTRIBUTES = {"stats_window_size": "_stats_window_size"}
_KEYS = (
    *("policy_class", "observation_space", "action_space", "n_envs", "has_masks"),
    *("arguments", "counters", "parameters"),
)
_COUNTERS = ("num_timesteps", "_total_timesteps", "_n_updates", "_current_progress_remaining", "_episode_num")
SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf", "ent_coef")
# Classes that policy_kwargs often have.
for _class in (
    *(torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.SGD),
    *(nn.Tanh, nn.ReLU, nn.ELU, nn.GELU, nn.LeakyReLU, nn.SiLU),
):
    register_class(_class)


class ModelFiles(OnPolicyAlgorithm):
    """`save` and `load` in place of Stable-Baselines3's, whose files are pickles."""

    _has_masks: bool

    def save(  # type: ignore[override]  # files hold arguments only, and no other attributes
        self,
        path: str | os.PathLike[str] | BinaryIO,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Write the model. Files hold no code, so `load` runs none.

        Args:
            path: the file, or an object to write to such as ``io.BytesIO``; ``.zip`` is added to a name without a
                suffix.
            exclude: arguments that the file does not hold; `load` takes their defaults.
            include: arguments that the file holds although ``exclude`` names them.

        Raises:
            TypeError: a schedule that the file should hold is a function, or of an unknown class; or ``exclude`` or
                ``include`` is a string.
        """
        for name, names in (("exclude", exclude), ("include", include)):
            if isinstance(names, str):
                raise TypeError(f"{name} must be a list of names, got {names!r}")
        excluded = set(exclude or ()) - set(include or ())
        self._check_schedules(except_for=excluded)
        arguments = {name: value for name, value in self.plain_arguments().items() if name not in excluded}
        aliases = [alias for alias, class_ in self.policy_aliases.items() if class_ is self.policy_class]
        content = {
            "policy_class": aliases[0] if aliases else to_plain(self.policy_class, "policy_class", omit=True),
            "observation_space": to_plain(self.observation_space, "observation_space"),
            "action_space": to_plain(self.action_space, "action_space"),
            "n_envs": self.n_envs,
            "has_masks": self._has_masks,
            "arguments": arguments,
            "counters": {name: getattr(self, name) for name in _COUNTERS},
            "parameters": self.get_parameters(),
        }
        if isinstance(path, str | os.PathLike):
            save_checkpoint(_with_ending(path), type(self).__name__, content)
        else:
            path.write(checkpoint_bytes(type(self).__name__, content))

    def plain_arguments(self) -> dict[str, Any]:
        """Return the arguments of the model as plain data, with notes in place of those that files cannot hold."""
        return {
            name: to_plain(getattr(self, _ATTRIBUTES.get(name, name)), name, omit=True)
            for name in _argument_names(type(self))
        }

    def _check_schedules(self, except_for: Collection[str] = ()) -> None:
        """Check that files can hold the schedules among the arguments.

        Args:
            except_for: names of arguments that need no check.

        Raises:
            TypeError: a schedule is a function, or of an unknown class.
        """
        for name in SCHEDULES:
            if name not in except_for:
                check_schedule(name, getattr(self, name, None))

    @classmethod
    def load(  # type: ignore[override]  # kwargs are arguments, not attributes
        cls: type[Self],
        path: str | os.PathLike[str] | BinaryIO,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Read a model that `save` wrote, without running code from the file.

        Args:
            path: the file, or an object to read from its start; you may leave out ``.zip``.
            env: environment of further training, which may have another number of environments; `predict` does not
                need it.
            device: device of the model.
            custom_objects: arguments that replace the file's, like ``kwargs``; also ``policy_class``. Other names are
                ignored, as in Stable-Baselines3.
            print_system_info: whether to print the versions of libraries.
            force_reset: must be True: environments are always reset before training continues.
            **kwargs: arguments that replace the file's; those in ``policy_kwargs`` replace the file's one by one.
                Files cannot hold functions, such as one that makes a core: give these here.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or holds no model of this class, an argument that files cannot hold is
                missing, or ``env`` has other spaces or normalises observations that the policy rescales.
        """
        if not force_reset:
            raise ValueError("force_reset must be True: files do not hold the state inside an episode")
        if print_system_info:
            get_system_info()
        name = _name(path)
        content = cls._read(path)
        known = {*_argument_names(cls), "policy_class"}
        custom = {key: value for key, value in (custom_objects or {}).items() if key in known}
        replaced = {**custom, **kwargs}
        with checking_content(name, "cannot be loaded"):
            policy = replaced.pop("policy_class", None) or from_plain(content["policy_class"], "policy_class")
            arguments = _read_arguments(content["arguments"], replaced)
            if env is not None:
                env = cls._wrap_env(env, arguments.get("verbose", 0))
            model = cls(policy, env, device=device, _init_setup_model=False, **arguments)  # type: ignore[arg-type]  # env may be None
            observation_space, action_space = content["observation_space"], content["action_space"]
            if env is None:
                model.observation_space, model.action_space = observation_space, action_space
                model.n_envs = content["n_envs"]
            else:
                check_for_correct_spaces(env, observation_space, action_space)
            # The policy is that of the file: an environment that normalises observations must not change it.
            normalize, model._vec_normalize_env = model._vec_normalize_env, None
            model._setup_model()
            model._vec_normalize_env = normalize
            if env is None:
                model._has_masks = content["has_masks"]
        if env is not None:
            model._check_normalisation(env)
        with checking_content(name, f"is of another policy than {model.policy}"):
            model.set_parameters(content["parameters"], device=device)
        for counter, value in content["counters"].items():
            setattr(model, counter, value)
        return model

    def _check_normalisation(self, env: VecEnv) -> None:
        normalize = unwrap_vec_normalize(env)
        if normalize is not None and normalize.norm_obs and getattr(self.policy.features_extractor, "rescales", False):
            raise ValueError(
                "env must not be a VecNormalize with norm_obs=True for a policy that rescales observations by their "
                "bounds: make the model with that environment, or with features_extractor_kwargs={'rescale': False}"
            )

    @classmethod
    def _read(cls, path: str | os.PathLike[str] | BinaryIO) -> dict[str, Any]:
        """Return the content of a file, with its spaces as objects."""
        name = _name(path)
        if isinstance(path, str | os.PathLike):
            content = load_checkpoint(name, cls.__name__)
        else:
            path.seek(0)  # a file that was just written is at its end
            content = checkpoint_content(path.read(), str(name), cls.__name__)
        with checking_content(name):
            for values, names in ((content, _KEYS), (content["counters"], _COUNTERS)):
                if set(values) != set(names):
                    raise ValueError(f"it must hold {sorted(names)}, got {sorted(map(str, values))}")
            unknown = set(content["arguments"]) - set(_argument_names(cls))
            if unknown:
                raise ValueError(f"it holds unknown arguments: {sorted(map(str, unknown))}")
            for counter, value in content["counters"].items():
                if not isinstance(value, int | float):
                    raise ValueError(f"{counter} must be a number, got {value!r}")
            flag("has_masks", content["has_masks"])
            for space in ("observation_space", "action_space"):
                content[space] = from_plain(content[space], space, spaces.Space)
        return content

    def set_parameters(
        self, load_path_or_dict: Any, exact_match: bool = True, device: torch.device | str = "auto"
    ) -> None:
        """Set the parameters to those of a file that `save` wrote, or to a dict that `get_parameters` returned."""
        if not isinstance(load_path_or_dict, dict):
            load_path_or_dict = self._read(load_path_or_dict)["parameters"]
        super().set_parameters(load_path_or_dict, exact_match, device)


def _read_arguments(stored: dict[str, Any], replaced: dict[str, Any]) -> dict[str, Any]:
    """Return the constructor's arguments: the stored ones that are not replaced, and the replacements."""
    policy_kwargs = replaced.get("policy_kwargs") or {}
    # A stored argument that is replaced is not read: it may be one that files cannot hold.
    arguments = {
        name: from_plain(value, name)
        for name, value in stored.items()
        if name not in replaced and name != "policy_kwargs"
    }
    stored_policy_kwargs = {
        name: value for name, value in stored.get("policy_kwargs", {}).items() if name not in policy_kwargs
    }
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


def _name(path: str | os.PathLike[str] | BinaryIO) -> Path:
    """Return the path of a file, or for errors the name of an object to read from."""
    return _with_ending(path) if isinstance(path, str | os.PathLike) else Path(type(path).__name__)


def _with_ending(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path if path.suffix else path.with_suffix(".zip")
