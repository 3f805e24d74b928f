"""A callback that evaluates a policy on a task during training, with the scores and probes of this project."""

from __future__ import annotations

import math

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import TensorBoardOutputFormat
from stable_baselines3.common.vec_env import unwrap_vec_normalize

from plastic_agents.actor_critic.agent import PolicyAgent
from plastic_agents.analysis.probes import probe
from plastic_agents.analysis.report import Report
from plastic_agents.training.tensorboard import evaluation_scalars, play_examples, write_pictures
from plastic_envs import Task
from plastic_envs.registration import as_task
from plastic_envs.validation import whole_number


class EvaluationCallback(BaseCallback):
    """Plays validation episodes of a task during training, and logs what `ReinforcementLearner` logs.

    These are the score of the policy, those of the oracle and of the memoryless agent, the normalised score, and of
    plastic networks the norms of the fast weights and the scores under interventions; in TensorBoard also pictures. All
    evaluations play the same episodes, greedily, and leave the training as it would be without them.

    Args:
        task: the task of the model's environment, or its id if its arguments are the defaults.
        eval_freq: number of steps of each environment between evaluations, as in ``EvalCallback``.
        n_eval_episodes: number of validation episodes of an evaluation.
        verbose: 1 prints the normalised score of each evaluation.

    Attributes:
        report: the last `Report`; ``None`` before the first evaluation.

    Raises:
        TypeError, ValueError: ``task`` is no task, or a number is no whole number of at least 1. When training starts:
            the model is not recurrent, has other spaces than the task, or normalises observations; or ``task`` is an
            id, and the environment's task has other arguments.
    """

    def __init__(self, task: Task | str, eval_freq: int = 10_000, n_eval_episodes: int = 500, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.task = as_task(task, {})
        self._id = task if isinstance(task, str) else None
        self.eval_freq = whole_number("eval_freq", eval_freq, at_least=1)
        self.n_eval_episodes = whole_number("n_eval_episodes", n_eval_episodes, at_least=1)
        self.report: Report | None = None

    def _init_callback(self) -> None:
        normalize = unwrap_vec_normalize(self.training_env)
        if normalize is not None and normalize.norm_obs:
            raise ValueError(
                "EvaluationCallback must have a model without VecNormalize(norm_obs=True): the policy plays the task's "
                "own observations"
            )
        # In evaluation mode, in which a rollout runs the policy: an evaluation puts the agent back into its mode.
        self.agent = PolicyAgent(self.task, self.model.policy).eval()  # type: ignore[arg-type]  # PolicyAgent checks it
        # An id stands for the task with its default arguments, which may not be those of the environment.
        trained = self.training_env.get_attr("task")[0] if self.training_env.has_attr("task") else None
        if self._id is not None and isinstance(trained, Task) and repr(trained) != repr(self.task):
            raise ValueError(f"task must be a Task to evaluate on another one than {trained!r}, got {self._id!r}")

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq == 0:
            self._evaluate()
        return True

    def _evaluate(self) -> None:
        agent, step = self.agent, self.num_timesteps
        self.report = probe(agent, episodes=self.n_eval_episodes, interventions=("intact",), step=0, split="validation")
        examples = play_examples(agent)
        for name, value in evaluation_scalars(agent, self.report, examples).items():
            if not math.isnan(value):
                # The table on the screen would be long.
                self.logger.record(name, value, exclude=None if name.startswith("evaluation/") else ("stdout", "log"))
        self.logger.record("time/total_timesteps", step, exclude="tensorboard")
        self.logger.dump(step)
        for output in self.logger.output_formats:
            if isinstance(output, TensorBoardOutputFormat):
                network = type(agent.core).__name__
                write_pictures(output.writer, step, agent, self.report, network, examples)
        if self.verbose >= 1:
            print(f"step {step}: normalised score {self.report['intact'].normalised_score:.3f}")
