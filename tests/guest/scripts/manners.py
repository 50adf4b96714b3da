"""Looks closely at what a guest might have changed; prints what it finds."""

import copy
import inspect
import os
import pickle
import sys
import threading
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
loader = DataLoader(TensorDataset(torch.randn(8, 4)), batch_size=2)


def step(batch):
    model(batch).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def pickles():
    for thing in (torch.save, os.fsync, torch.autograd.backward, DataLoader, optimizer):
        yield getattr(thing, "__name__", type(thing).__name__)
        if thing is optimizer:
            pickle.loads(pickle.dumps(thing))
        else:
            assert pickle.loads(pickle.dumps(thing)) is thing
    yield from (inspect.signature(torch.save).parameters)
    yield from (inspect.signature(nn.Module.train).parameters)
    yield copy.deepcopy(model).training, copy.deepcopy(optimizer).state_dict()["param_groups"]
    copied = pickle.loads(pickle.dumps(loader))
    yield len(list(copied))


def graphs():
    """How dynamo cuts functions that call what the guest listens to."""
    from torch._dynamo.utils import counters

    def modes(x):
        model.eval()
        y = model(x)
        model.train()
        return y + 1

    def gradients(x):
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((x * x).sum(), x)
        return gradient + 1

    def backward(x):
        model(x).sum().backward()
        return x + 1

    def optimizer_step(x):
        optimizer.step()
        return x + 1

    for function in (modes, gradients, backward, optimizer_step):
        counters.clear()
        torch.compile(function, backend="eager")(torch.ones(2, 4))
        cuts = sorted((cut.splitlines()[0], n) for cut, n in counters["graph_break"].items())
        yield function.__name__, cuts, sorted(counters["stats"].items())


def captures():
    """Every way in which torch takes a module apart."""
    x = torch.ones(2, 4)
    net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2))).eval()
    yield torch.fx.symbolic_trace(net).code
    yield torch.jit.trace(net, x).code
    yield torch.jit.script(net).code
    yield torch.export.export(net, (x,)).graph
    parameters = {name: value.detach() for name, value in net.named_parameters()}
    gradient = torch.func.grad(lambda p: torch.func.functional_call(net, p, (x,)).sum())
    yield sorted(gradient(parameters))
    yield torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    yield compiled(x).shape, type(compiled).__name__


def threads():
    """Loaders read in threads of their own while the main thread trains."""
    batches = []

    def read():
        for (batch,) in loader:
            batches.append(batch)
            time.sleep(0.01)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for (batch,) in loader:
        step(batch)
    for reader in readers:
        reader.join()
    yield len(batches)


def window_open():
    return torch.autograd.profiler._is_profiler_enabled


def forks():
    """Forks in the middle of a profiler window, where there is one; the child trains on."""
    end = time.monotonic() + 10
    while "wrapped" in sys.argv and not window_open() and time.monotonic() < end:
        step(torch.ones(2, 4))
        time.sleep(0.002)
    print("forked in a window:", window_open(), file=sys.stderr)
    child = os.fork()
    if not child:
        for (batch,) in loader:
            step(batch)
        time.sleep(1)
        os._exit(7 if window_open() else 0)
    yield os.waitpid(child, 0)[1]
    for _ in range(50):
        step(torch.ones(2, 4))
        time.sleep(0.005)


def exit_callbacks():
    yield torch.autograd.profiler.__name__
    yield sorted(t.name for t in threading.enumerate() if not t.name.startswith("boundscope"))


for part in (pickles, graphs, captures, threads, forks, exit_callbacks):
    for line in part():
        print(part.__name__, line)
