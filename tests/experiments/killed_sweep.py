"""A sweep that kills its own process in the middle, where KILL_AT says so; run by test_cache."""

import os
import signal
import sys

from mmlab.balancers import Joint, Uniform
from mmlab.datasets.synthetic import synthetic
from mmlab.experiments.comparison import compare


class Deadly(Joint):
    def start(self, run):
        if os.environ.get("KILL_AT"):
            os.kill(os.getpid(), signal.SIGKILL)


def data(seed):
    return synthetic(n=(80, 20, 40), dims=5, seed=seed)


def swept(cache=None, **options):
    methods = {"joint": Joint, "deadly": Deadly, "uniform": Uniform}
    return compare(methods, data, seeds=range(3), epochs=2, device="cpu", cache=cache, **options)


if __name__ == "__main__":
    sys.path[:0] = [os.path.dirname(__file__)]
    import killed_sweep

    killed_sweep.swept(sys.argv[1])
