"""Train on a file of many times the memory that the program may take. Arguments: the file, bytes.

Prints the accuracy on the test split, and what becomes of reading the whole split at once.
"""

import resource
import sys

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from mmlab.datasets import MultimodalData, Stream
from mmlab.evaluation import test_accuracy
from mmlab.models import MultimodalNet
from mmlab.training import fit

SHAPE = (128, 256)


class File(Dataset):
    """Pictures in a memory-mapped file, of two classes in turns."""

    def __init__(self, path):
        self.pictures = np.memmap(path, np.float32, "r").reshape(-1, *SHAPE)

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, i):
        picture = torch.from_numpy(self.pictures[i] + np.float32(i % 2))
        return {"image": picture, "text": picture[:4, :4]}, i % 2


def mean_of_blocks():
    return nn.Sequential(nn.Unflatten(1, (1, -1)), nn.AdaptiveAvgPool2d(4), nn.Flatten())


def allow(more):
    """From here on this process may take so many bytes more."""
    with open("/proc/self/status") as status:
        taken = next(int(line.split()[1]) for line in status if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (taken * 1024 + more,) * 2)


def main(path, more):
    stream = Stream(File(path))
    data = MultimodalData(stream, stream, stream, n_classes=2)
    encoders = dict.fromkeys(data.modalities, mean_of_blocks)
    net = MultimodalNet.build(data, encoders=encoders, width=16)
    allow(more)
    run = fit(net, data, epochs=1, lr=0.1, device="cpu")
    print(test_accuracy(run))
    try:
        print(len(stream.head(len(stream))))
    except (RuntimeError, MemoryError):
        print("too much")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
