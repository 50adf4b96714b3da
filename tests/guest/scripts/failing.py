"""Fails in every way that the guest stands in, each in a fork of its own, with nobody to catch."""

import os
import signal
import sys
import threading

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

if "own-hook-before" in sys.argv:
    sys.excepthook = lambda kind, error, trace: print("own hook", kind.__name__, trace is not None)


class Broken(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise ArithmeticError("in backward")


class Unreadable(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise OSError("cannot read item")


class Stuck(nn.Module):
    def train(self, mode=True):
        super().train(mode)
        raise RuntimeError("no such mode")


def in_backward():
    Broken.apply(torch.ones(2, requires_grad=True)).sum().backward()


def in_gradient():
    x = torch.ones(2, requires_grad=True)
    torch.autograd.grad(Broken.apply(x).sum(), x)


def in_dataset():
    for _ in DataLoader(Unreadable()):
        pass


def in_worker():
    for _ in DataLoader(Unreadable(), num_workers=1):
        pass


def in_save():
    torch.save({"x": torch.ones(2)}, "/not/a/folder/x.pt")


def in_pickle():
    torch.save(lambda: None, "x.pt")


class Picky(nn.Module):
    def forward(self, x):
        raise ValueError("wrong shape")


def in_forward():
    nn.Sequential(nn.Sequential(nn.Identity(), Picky()))(torch.ones(2))


def in_mode():
    nn.Sequential(Stuck()).eval()


def chained():
    try:
        in_backward()
    except ArithmeticError as error:
        raise ValueError("while training") from error


def in_context():
    try:
        in_backward()
    except ArithmeticError:
        in_dataset()


def interrupted():
    class Slow(Unreadable):
        def __getitem__(self, index):
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(5)

    for _ in DataLoader(Slow()):
        pass


WAYS = [
    in_backward,
    in_gradient,
    in_dataset,
    in_worker,
    in_save,
    in_pickle,
    in_forward,
    in_mode,
    chained,
    in_context,
    interrupted,
]

for way in WAYS if len(sys.argv) == 1 else WAYS[:3]:
    sys.stderr.flush()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        print(way.__name__, file=sys.stderr, flush=True)
        if "own-hook-after" in sys.argv:
            sys.excepthook = lambda kind, error, trace: print("own hook", kind.__name__)
        way()
        sys.exit("it did not fail")
    print(way.__name__, os.waitpid(child, 0)[1], flush=True)
