"""Every environment in TorchRL, single and native vector form, through TorchRL's own checks."""

import gymnasium as gym
from torchrl.envs import GymEnv, GymWrapper, check_env_specs

import plastic_envs

if __name__ == "__main__":
    for env_id in plastic_envs.registered_ids():
        single = GymEnv(env_id)
        single.auto_register_info_dict()  # target, scored and the scores at the end become entries of the tensordict
        check_env_specs(single)
        # TorchRL resets lanes by itself, so that the environment must not.
        vector = GymWrapper(gym.make_vec(env_id, num_envs=4, autoreset_mode="Disabled"))
        check_env_specs(vector)
        rollout = vector.rollout(60, break_when_any_done=False)
        print(f"{env_id}: {list(rollout.shape)} steps, {int(rollout['next', 'done'].sum())} episodes ended")
