"""A script for a separate process: train while interrupts arrive, as in a notebook.

If an exception freed memory that C code still writes to, the heap would be corrupted, and the process would die at a
later allocation. The script prints the number of interrupts that it survived.
"""

import random
import signal
import sys

import torch
from plastic_agents.models.plastic.network import PlasticNetwork


class Interrupt(Exception):
    pass


def interrupt(number, frame):
    raise Interrupt


def main(interrupts):
    torch.set_num_threads(4)
    torch.manual_seed(0)
    networks = [PlasticNetwork(8, 64, 1), PlasticNetwork(8, 64, 1, rule="rls")]  # the latter has a matrix in its state
    xs = torch.randn(30, 64, 8)
    signal.signal(signal.SIGALRM, interrupt)
    random.seed(0)
    for network in networks:
        network.unroll(xs)[0].y.sum().backward()  # build, and start the threads
    wanted = [network.unroll(xs)[0].y.sum().item() for network in networks]
    for number in range(interrupts):
        network = networks[number % len(networks)]
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.001, 0.03))
            while True:
                network.unroll(xs)[0].y.sum().backward()
        except Interrupt:
            pass
        # New memory at the freed addresses: a thread that still wrote to them would change it.
        assert not any(torch.zeros(64, 10_000).any() for _ in range(4))
    assert [network.unroll(xs)[0].y.sum().item() for network in networks] == wanted
    print(interrupts)


if __name__ == "__main__":
    main(int(sys.argv[1]))
