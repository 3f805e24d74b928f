"""Several processes that train one network on shares of the same batches, as ``torchrun`` starts them."""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class ProcessGroup:
    """How many processes train together, and which of them this is; without ``torchrun``, one alone.

    For one alone, methods do nothing and give back what they get.

    Attributes:
        rank: this one, counted from 0 over all machines.
        count: on all machines together.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> ProcessGroup:
        """As the environment variables say that torchrun sets."""
        if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():  # other launchers may set one of them
            return cls()
        return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def place(self, device: torch.device) -> torch.device:
        """The device of this process, where ``device`` leaves open which of the machine's GPUs it is."""
        if self.count > 1 and device.type == "cuda" and device.index is None:
            return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        return device

    def check(self, batch_size: int, module: nn.Module, device: torch.device) -> None:
        """Check that the processes can train ``module`` on batches of that size as one would.

        Raises:
            ValueError: they cannot have equal shares of a batch, or not its statistics.
        """
        if batch_size % self.count:
            raise ValueError(f"batch_size must be a multiple of the {self.count} processes, got {batch_size}")
        # SyncBatchNorm takes no tensors on CPUs.
        if self.count > 1 and device.type != "cuda" and any(isinstance(each, _BatchNorm) for each in module.modules()):
            raise ValueError(
                f"device must be 'cuda' for {self.count} processes to train a network with batch normalisation, whose "
                f"statistics are of the whole batch, got '{device.type}': train it in one process"
            )

    def share(self, batch_size: int) -> slice:
        """The lanes of this process in a batch."""
        size = batch_size // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

    def join(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Begin with the first process's ``module``.

        Returns:
            A module that does what ``module`` does, but whose backward pass leaves in ``grad`` the mean over processes.
        """
        if self.count == 1:
            return module
        _meet(device)
        return nn.parallel.DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(module))

    def mean(self, values: tuple[float, ...], device: torch.device) -> tuple[float, ...]:
        """Means over processes, the same in each; none goes on before all have come here."""
        if self.count == 1:
            return values
        _meet(device)
        total = torch.tensor(values, dtype=torch.float64, device=device)
        distributed.all_reduce(total)
        return tuple((total / self.count).tolist())

    def agree(self, number: int, device: torch.device) -> bool:
        """Whether all processes have the same number; each is told the same."""
        # The mean alone may be what one of several has; where the mean of squares is its square, there is no spread.
        return self.mean((number, number**2), device) == (number, number**2)


def _meet(device: torch.device) -> None:
    """Wait for the other processes, once."""
    if not distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(distributed.destroy_process_group)
