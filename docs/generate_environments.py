"""Write docs/environments: a page with an animation for each environment, from its docstring and the registry.

The script also writes the scores of oracle and memoryless policy into the table of README.md.

    python docs/generate_environments.py

A test fails if the pages are stale.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from plastic_agents.analysis.gif import write_gif

import plastic_envs
from plastic_envs.env import TaskEnv
from plastic_envs.registration import TASKS
from plastic_envs.rendering import draw_episode
from plastic_envs.task import Array, Task
from plastic_envs.vector_env import TaskVectorEnv

EPISODES = 10_000
FOLDER = Path(__file__).parent / "environments"
README = Path(__file__).parents[1] / "README.md"
MILLISECONDS, LAST_FRAME = 300, 3000


def pages() -> dict[str, str]:
    """Return the text of each page by file name."""
    ids = [env_id for env_id in plastic_envs.registered_ids() if env_id.startswith("PlasticRNN/")]
    return {"README.md": index(ids), **{f"{short(env_id)}.md": page(env_id) for env_id in ids}}


def animations() -> dict[str, list[Array]]:
    """Return the frames of each page's animation, uint8 [height, width, 3], by file name."""
    ids = [env_id for env_id in plastic_envs.registered_ids() if env_id.startswith("PlasticRNN/")]
    return {f"{short(env_id)}.gif": frames(plastic_envs.make_task(env_id)) for env_id in ids}


def short(env_id: str) -> str:
    """Return the id without its namespace."""
    return env_id.partition("/")[2]


def page(env_id: str) -> str:
    """Return the page of an environment: a picture, a table of facts, and the docstring of its task."""
    kind, preset = TASKS[env_id]
    task = plastic_envs.make_task(env_id)
    summary, _, card = (inspect.getdoc(kind) or "").partition("\n")
    oracle, memoryless = policy_scores(env_id)
    return f"""<!-- Written by docs/generate_environments.py from the docstring of {kind.__name__}: edit it there. -->

# {short(env_id)}

{summary}

![An episode of {short(env_id)}, step by step]({short(env_id)}.gif)

*Top: observations. Bottom: actions and targets at scored steps. The agent of this example follows the oracle, except
at every third scored step, where it follows the memoryless policy.*

| | |
|---|---|
| Single environment | `gymnasium.make("plastic_envs:{env_id}")` |
| Vector environment | `gymnasium.make_vec("plastic_envs:{env_id}", num_envs=64)` |
| Task | `plastic_envs.tasks.{kind.__name__}` |
| Arguments set by the id | {settings(preset) or "none"} |
| Observation space | {describe(task.observation_space)} |
| Action space | {describe(task.action_space)} |
| Episode length | {task.episode_length} |
| Step at which probes intervene | {task.query_start} |
| Range of rewards | {task.reward_range[0]:g} to {task.reward_range[1]:g} |
| Oracle, mean reward per scored step | {mean_and_interval(oracle)} |
| Memoryless policy, mean reward per scored step | {mean_and_interval(memoryless)} |{secondary_rows(task)}

Means are over {EPISODES} episodes, with 95 % confidence intervals.

{card.strip()}
"""


def index(ids: list[str]) -> str:
    """Return the index page, with the documentation of the environment classes."""
    rows = []
    for env_id in ids:
        kind, preset = TASKS[env_id]
        summary = (inspect.getdoc(kind) or "").partition("\n")[0]
        rows.append(f"| [{short(env_id)}]({short(env_id)}.md) | {summary} | {settings(preset)} |")
    table = "\n".join(rows)
    return f"""<!-- Written by docs/generate_environments.py. -->

# Environments

| Environment | Task | Arguments set by the id |
|---|---|---|
{table}

Ids begin with `PlasticRNN/`. Importing `plastic_envs` registers them with Gymnasium. An id with the prefix
`plastic_envs:` needs no import, which is useful in worker processes (`AsyncVectorEnv`, `SubprocVecEnv`, remote
runners). `gymnasium.make` and `gymnasium.make_vec` pass keyword arguments to the task.

## Trials: several episodes of one world

In reinforcement meta-learning, an agent often plays several episodes of one world and keeps its memory between them
(RL^2, Duan et al. 2016). `Trials` makes one episode, a trial, of them. `PreviousActionReward` around it shows the agent
where an episode inside the trial starts, together with the last reward of the one before.

```python
import gymnasium
from plastic_envs.wrappers import PreviousActionReward, Trials, VectorPreviousActionReward, VectorTrials

env = PreviousActionReward(Trials(gymnasium.make("PlasticRNN/Bandit-v0"), 4))  # four episodes with the same arms
observation, info = env.reset(seed=0)
terminated = False
while not terminated:
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
print(info["episode_returns"])  # the return of each episode
print(info["oracle_returns"], info["memoryless_returns"])

envs = gymnasium.make_vec("PlasticRNN/Bandit-v0", 64, autoreset_mode="Disabled")
envs = VectorPreviousActionReward(VectorTrials(envs, 4, autoreset_mode="SameStep"))
```

Bandit, Harlow, CueChoice, CueReward and SequenceReproduction have such worlds, and so does a task of your own if it
sets `Task.world`. An environment of another library keeps its world at resets with some `options`, which you pass:
`Trials(env, 4, {{"same_maze": True}})`, or `Trials(env, 4, {{}})` if it has one world only. A small wrapper whose
`reset` knows such an option adds it to any environment. `VecMonitor(plastic_agents.SB3VecEnv(envs))`
passes `envs` to Stable-Baselines3, and records the returns of trials.

`oracle_returns` are those of a player that keeps its memory between the episodes: `Task.trial_oracle`, which these five
tasks have. It is as exact as the oracle of a single episode, so it is a reference in Bandit. To compare an agent with
it, average the sums of both over trials: the oracle may give up return in an early episode to earn more later. With
`reference_scores=False`, the environment saves the time for it.

## Single environment

{reference(TaskEnv)}

## Vector environment

{reference(TaskVectorEnv)}
"""


def readme() -> str:
    """Return README.md with the mean scores of the oracle and of the memoryless policy in its table."""
    text = README.read_text(encoding="utf-8")
    row = re.compile(r"^(\| \[`(PlasticRNN/.*?)`\].*\| )[^|]* \|$", re.MULTILINE)
    return row.sub(lambda match: f"{match[1]}{scores(match[2])} |", text)


def scores(env_id: str) -> str:
    """Return the name of an environment's score, and its mean for the oracle and the memoryless policy."""
    task = plastic_envs.make_task(env_id)
    name = "mean squared error" if isinstance(task.action_space, spaces.Box) else task.score_name
    return f"{name} {' / '.join(f'{abs(values.mean()):.3f}' for values in policy_scores(env_id))}"


@cache
def policy_scores(env_id: str) -> tuple[Array, Array]:
    """Return the scores of the oracle and of the memoryless policy in each of `EPISODES` episodes."""
    task = plastic_envs.make_task(env_id)
    episode = task.sample(np.random.default_rng(0), EPISODES)
    return task.score(episode, task.oracle(episode)), task.score(episode, task.memoryless(episode))


def settings(preset: Mapping[str, Any]) -> str:
    """Return arguments and their values as Markdown."""
    return ", ".join(f"`{name}={value!r}`" for name, value in preset.items())


def reference(kind: type) -> str:
    """Return a docstring as Markdown, with `Args:` and `Raises:` as lists."""
    lines = []
    for line in (inspect.getdoc(kind) or "").splitlines():
        if line in ("Args:", "Raises:"):
            lines += [f"**{line[:-1]}**", ""]
        elif line.startswith("     "):
            lines.append(f"  {line.strip()}")
        elif line.startswith("    "):
            name, _, meaning = line.strip().partition(": ")
            lines.append(f"- `{name}`: {meaning}")
        else:
            lines.append(line)
    return "\n".join(lines)


def describe(space: spaces.Space[Any]) -> str:
    """Return a short description of a space."""
    if isinstance(space, spaces.Dict):
        return "; ".join(f"`{name}`: {describe(subspace)}" for name, subspace in space.items())
    if isinstance(space, spaces.Box):
        return f"`Box`, shape {space.shape}, {space.dtype}, from {space.low.min():g} to {space.high.max():g}"
    return f"`{space}`"


def secondary_rows(task: Task) -> str:
    """Return rows with the mean of each secondary metric of the oracle and of the memoryless policy, if any."""
    episode = task.sample(np.random.default_rng(0), EPISODES)
    policies = {"Oracle": task.oracle(episode), "Memoryless policy": task.memoryless(episode)}
    metrics = {policy: task.secondary_metrics(episode, actions) for policy, actions in policies.items()}
    return "".join(
        f"\n| {policy}, `{name}` | {mean_and_interval(metrics[policy][name].per_episode())} |"
        for name in metrics["Oracle"]
        for policy in policies
    )


def mean_and_interval(values: Array) -> str:
    """Return the mean of values, one of each episode, with its 95 % confidence interval."""
    return f"{values.mean():.4f} ± {1.96 * values.std() / np.sqrt(EPISODES):.4f}"


def frames(task: Task) -> list[Array]:
    """Draw an episode after each step; the agent is memoryless at every third scored step, and else the oracle."""
    episode = task.sample(np.random.default_rng(12), 1)
    actions = task.oracle(episode)[0]
    memoryless_steps = np.flatnonzero(episode.scored[0])[2::3]
    actions[memoryless_steps] = task.memoryless(episode)[0, memoryless_steps]
    return [draw_episode(task, episode, actions[:step]) for step in range(task.episode_length + 1)]


def main() -> None:
    """Write all pages and animations, and remove all other files."""
    FOLDER.mkdir(exist_ok=True)
    for stale in FOLDER.iterdir():
        stale.unlink()
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")
    for name, images in animations().items():
        write_gif(FOLDER / name, images.__getitem__, [MILLISECONDS] * (len(images) - 1) + [LAST_FRAME])


if __name__ == "__main__":
    main()
