"""Writes docs/environments: a page for each environment, from its docstring and the registry, with a picture.

    python docs/generate_environments.py

A test fails while the pages are not what this would write.
"""

from __future__ import annotations

import inspect
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

import plastic_envs
from plastic_envs.env import TaskEnv
from plastic_envs.registration import TASKS
from plastic_envs.rendering import draw_episode
from plastic_envs.task import Array, EpisodeBatch, Task
from plastic_envs.vector_env import TaskVectorEnv

EPISODES = 10_000
FOLDER = Path(__file__).parent / "environments"


def pages() -> dict[str, str]:
    """Text of each page by file name."""
    ids = [env_id for env_id in plastic_envs.registered_ids() if env_id.startswith("PlasticRNN/")]
    return {"README.md": index(ids), **{f"{short(env_id)}.md": page(env_id) for env_id in ids}}


def pictures() -> dict[str, Array]:
    """The picture on each page, uint8 [height, width, 3], by file name."""
    ids = [env_id for env_id in plastic_envs.registered_ids() if env_id.startswith("PlasticRNN/")]
    return {f"{short(env_id)}.png": picture(plastic_envs.make_task(env_id)) for env_id in ids}


def short(env_id: str) -> str:
    """The id without its namespace."""
    return env_id.partition("/")[2]


def page(env_id: str) -> str:
    """A page: what the registry knows, a picture, and the card."""
    kind, preset = TASKS[env_id]
    task = plastic_envs.make_task(env_id)
    summary, _, card = (inspect.getdoc(kind) or "").partition("\n")
    return f"""<!-- Written by docs/generate_environments.py from the docstring of {kind.__name__}; change it there. -->

# {short(env_id)}

{summary}

![An episode of {short(env_id)}, all but its last step played]({short(env_id)}.png)

*Above, what was observed; below, answers beside the right ones at the scored steps. The player answers as the oracle
does, but at every third scored step as one without memory.*

| | |
|---|---|
| Make one | `gymnasium.make("plastic_envs:{env_id}")` |
| Make many | `gymnasium.make_vec("plastic_envs:{env_id}", num_envs=64)` |
| Task | `plastic_envs.tasks.{kind.__name__}` |
| Arguments set by the id | {settings(preset) or "none"} |
| Observation space | {describe(task.observation_space)} |
| Action space | {describe(task.action_space)} |
| Steps of an episode | {task.episode_length} |
| Probes intervene before step | {task.query_start} |
| Reward of a step | {task.reward_range[0]:g} to {task.reward_range[1]:g} |
| Oracle, mean reward per scored step | {measured(task, task.oracle)} |
| Without memory, mean reward per scored step | {measured(task, task.memoryless)} |

Means are over {EPISODES} episodes, with 95 % intervals.

{card.strip()}
"""


def index(ids: list[str]) -> str:
    """The page that lists the others, and says what holds for all."""
    rows = []
    for env_id in ids:
        kind, preset = TASKS[env_id]
        summary = (inspect.getdoc(kind) or "").partition("\n")[0]
        rows.append(f"| [{short(env_id)}]({short(env_id)}.md) | {summary} | {settings(preset)} |")
    table = "\n".join(rows)
    return f"""<!-- Written by docs/generate_environments.py. -->

# Environments

| Environment | What it asks for | Arguments set by the id |
|---|---|---|
{table}

Ids begin with `PlasticRNN/`. Gymnasium knows them once `plastic_envs` is imported; with `plastic_envs:` before it an id
needs no import, which is what worker processes want (`AsyncVectorEnv`, `SubprocVecEnv`, remote runners). Keyword
arguments of `gymnasium.make` and `gymnasium.make_vec` reach the task.

## One environment

{reference(TaskEnv)}

## Many in lockstep

{reference(TaskVectorEnv)}
"""


def settings(preset: Mapping[str, Any]) -> str:
    """Arguments and their values."""
    return ", ".join(f"`{name}={value!r}`" for name, value in preset.items())


def reference(kind: type) -> str:
    """A docstring with its `Args:` and `Raises:` as Markdown lists."""
    lines = []
    for line in (inspect.getdoc(kind) or "").splitlines():
        if line in ("Args:", "Raises:"):
            lines += [f"**{line[:-1]}**", ""]
        elif line.startswith("    "):
            name, _, meaning = line.strip().partition(": ")
            lines.append(f"- `{name}`: {meaning}")
        else:
            lines.append(line)
    return "\n".join(lines)


def describe(space: spaces.Space[Any]) -> str:
    """A space in a few words."""
    if isinstance(space, spaces.Dict):
        return "; ".join(f"`{name}`: {describe(part)}" for name, part in space.items())
    if isinstance(space, spaces.Box):
        return f"`Box`, shape {space.shape}, {space.dtype}, from {space.low.min():g} to {space.high.max():g}"
    return f"`{space}`"


def measured(task: Task, policy: Callable[[EpisodeBatch], Array]) -> str:
    """A policy's mean reward per scored step, with its 95 % interval."""
    episode = task.sample(np.random.default_rng(0), EPISODES)
    scores = task.score(episode, policy(episode))
    return f"{scores.mean():.4f} ± {1.96 * scores.std() / np.sqrt(EPISODES):.4f}"


def picture(task: Task) -> Array:
    """An episode, all but its last step played by a player who forgets at every third scored step."""
    episode = task.sample(np.random.default_rng(12), 1)
    actions = task.oracle(episode)[0]
    forgets = np.flatnonzero(episode.scored[0])[2::3]
    actions[forgets] = task.memoryless(episode)[0, forgets]
    return draw_episode(task, episode, actions[:-1])


def write_png(path: Path, image: Array) -> None:
    """Write uint8 [height, width, 3] as a PNG file."""
    height, width, _ = image.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    # Each line begins with its filter: 0, none.
    lines = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(lines.tobytes(), 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def read_png(path: Path) -> Array:
    """Read a file that `write_png` wrote."""
    data = path.read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    (length,) = struct.unpack(">I", data[33:37])
    lines = np.frombuffer(zlib.decompress(data[41 : 41 + length]), np.uint8).reshape(height, 1 + 3 * width)
    return lines[:, 1:].reshape(height, width, 3)


def main() -> None:
    """Write all pages and pictures, and remove those of environments that are gone."""
    FOLDER.mkdir(exist_ok=True)
    for stale in FOLDER.iterdir():
        stale.unlink()
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    for name, image in pictures().items():
        write_png(FOLDER / name, image)


if __name__ == "__main__":
    main()
