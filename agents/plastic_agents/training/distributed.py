"""Data-parallel training in the processes that ``torchrun`` starts: each takes an equal slice of every batch."""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train one network; a single process without ``torchrun``.

    With a single process, methods need no communication and return their argument.

    Attributes:
        rank: number of this process, counted from 0 over all machines.
        world_size: number of processes on all machines.
    """

    rank: int = 0
    world_size: int = 1

    @classmethod
    def from_env(cls) -> ProcessGroup:
        """Read the environment variables that torchrun sets."""
        if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():  # other launchers may set one of them
            return cls()
        return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def local_device(self, device: torch.device) -> torch.device:
        """Return the device of this process: its GPU on this machine if ``device`` is ``cuda`` without an index."""
        if self.world_size > 1 and device.type == "cuda" and device.index is None:
            if "LOCAL_RANK" not in os.environ:
                raise ValueError(
                    "device must have an index, such as 'cuda:0', where LOCAL_RANK, which torchrun sets, is missing, "
                    f"got {str(device)!r}"
                )
            return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        return device

    def check(self, batch_size: int, module: nn.Module, device: torch.device) -> None:
        """Check that the processes can train ``module`` on batches of this size as a single process would.

        Raises:
            ValueError: the batch size is not a multiple of the number of processes, or the module has batch
                normalisation, which needs the whole batch, and the device is not a GPU.
        """
        if batch_size % self.world_size:
            raise ValueError(f"batch_size must be a multiple of the {self.world_size} processes, got {batch_size}")
        # SyncBatchNorm does not support CPU tensors.
        if (
            self.world_size > 1
            and device.type != "cuda"
            and any(isinstance(layer, _BatchNorm) for layer in module.modules())
        ):
            raise ValueError(
                f"device must be 'cuda' for {self.world_size} processes to train a network with batch normalisation, "
                f"which needs the statistics of the whole batch, got '{device.type}': train it in one process"
            )

    def batch_slice(self, batch_size: int) -> slice:
        """Return the slice of a batch that this process trains on."""
        size = batch_size // self.world_size
        return slice(self.rank * size, (self.rank + 1) * size)

    def wrap(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Copy the main process's parameters into ``module`` and wrap it in DistributedDataParallel.

        Returns:
            A module that computes what ``module`` computes; its backward pass leaves the mean gradient over processes
            in ``grad``.
        """
        if self.world_size == 1:
            return module
        _init_process_group(device)
        return nn.parallel.DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(module))

    def all_mean(self, values: tuple[float, ...], device: torch.device) -> tuple[float, ...]:
        """Return means over processes, the same in each process; wait until all processes have called this."""
        if self.world_size == 1:
            return values
        _init_process_group(device)
        total = torch.tensor(values, dtype=torch.float64, device=device)
        distributed.all_reduce(total)
        return tuple((total / self.world_size).tolist())

    def all_equal(self, number: int, device: torch.device) -> bool:
        """Return whether all processes have the same number; the answer is the same in each process."""
        # A process's number can be the mean by chance; E[x^2] == E[x]^2 holds only if all numbers are equal.
        return self.all_mean((number, number**2), device) == (number, number**2)


def _init_process_group(device: torch.device) -> None:
    """Initialise torch's default process group at the first call, which waits for the other processes."""
    if not distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(distributed.destroy_process_group)
