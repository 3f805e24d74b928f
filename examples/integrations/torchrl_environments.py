"""Check every environment, single and vectorised, with TorchRL's `check_env_specs`."""

import gymnasium as gym
import numpy as np
from torchrl.envs import GymEnv, GymWrapper, check_env_specs
from torchrl.envs.gym_like import default_info_dict_reader

import plastic_envs


class InfoReader(default_info_dict_reader):
    """TorchRL's info reader, for infos that have Python numbers and bools as well as arrays."""

    def __call__(self, info_dict, tensordict):
        """Write the info's entries into the tensordict."""
        return super().__call__({name: np.asarray(value) for name, value in info_dict.items()}, tensordict)


if __name__ == "__main__":
    for env_id in plastic_envs.registered_ids():
        single = GymEnv(env_id)
        # target, scored and the final scores become entries of the tensordict
        single.auto_register_info_dict(info_dict_reader=InfoReader())
        check_env_specs(single)
        # TorchRL resets finished sub-environments itself, so the environment must not.
        vector = GymWrapper(gym.make_vec(env_id, num_envs=4, autoreset_mode="Disabled"))
        check_env_specs(vector)
        rollout = vector.rollout(60, break_when_any_done=False)
        print(f"{env_id}: {list(rollout.shape)} steps, {int(rollout['next', 'done'].sum())} episodes ended")
