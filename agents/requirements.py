"""Checks, on import, that what the agents need is installed."""

from importlib.util import find_spec

_NEEDED = ("torch", "stable_baselines3", "tensorboard", "matplotlib", "tyro", "tqdm", "rich")
_missing = [name for name in _NEEDED if find_spec(name) is None]
if _missing:
    raise ModuleNotFoundError(
        f"agents needs {', '.join(_missing)}, which a plain install leaves out: pip install 'plastic-envs[agents]'"
    )
