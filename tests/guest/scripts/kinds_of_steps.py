"""Training loops of many kinds, each in a forked process of its own.

Prints name, pid, steps, and when each validation began and ended.
"""

import json
import multiprocessing
import sys
import time
from importlib import import_module

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import boundscope

EVAL_S = 0.03
EVALUATIONS = []
"""Of each validation four moments of the monotonic clock: it began after the first and before the
second, and ended after the third and before the fourth."""

now = time.monotonic_ns


def data(count=12):
    return DataLoader(TensorDataset(torch.randn(count, 4)), batch_size=1)


def model_and(optimizer=torch.optim.SGD, **options):
    model = nn.Linear(4, 1)
    return model, optimizer(model.parameters(), lr=0.01, **options)


def train_step(model, optimizer, batch=None):
    optimizer.zero_grad()
    model(torch.randn(1, 4) if batch is None else batch).sum().backward()
    optimizer.step()


def single():
    model, optimizer = model_and()
    for (batch,) in data():
        train_step(model, optimizer, batch)
    return 12


def gan():
    (critic, for_critic), (generator, for_generator) = model_and(), model_and()
    for (batch,) in data():
        train_step(critic, for_critic, batch)
        train_step(generator, for_generator, batch)
    return 12


def gan_without_loader():
    (critic, for_critic), (generator, for_generator) = model_and(), model_and()
    for _ in range(10):
        train_step(critic, for_critic)
        train_step(generator, for_generator)
    return 10


def wgan():
    (critic, for_critic), (generator, for_generator) = model_and(), model_and()
    for _ in range(8):
        for (batch,) in data(5):
            train_step(critic, for_critic, batch)
        train_step(generator, for_generator)
    return 8


def accumulation():
    model, optimizer = model_and()
    for index, (batch,) in enumerate(data(20)):
        model(batch).sum().backward()
        if index % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
    return 5


def lbfgs():
    model = nn.Linear(4, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(8, 4)).square().mean()
        loss.backward()
        return loss

    for _ in range(6):
        optimizer.step(closure)
    return 6


def skipped_by_amp():
    model, optimizer = model_and()
    scaler = torch.amp.GradScaler("cpu")
    for index, (batch,) in enumerate(data()):
        optimizer.zero_grad()
        scaler.scale(model(batch).sum()).backward()
        if index in (3, 7, 8):
            model.weight.grad.fill_(float("inf"))
        scaler.step(optimizer)
        scaler.update()
    return 12


def manual_update():
    model = nn.Linear(4, 1)
    for (batch,) in data():
        model(batch).sum().backward()
        with torch.no_grad():
            model.weight -= 0.01 * model.weight.grad
            model.weight.grad = None
    return 12


def manual_update_of_resident_data():
    model = nn.Linear(4, 1)
    (batch,) = next(iter(data(1)))
    for _ in range(40):
        model(batch).sum().backward()
        with torch.no_grad():
            model.weight -= 0.01 * model.weight.grad
    return 40


def inference():
    model = nn.Linear(4, 1)
    with torch.no_grad():
        for (batch,) in data():
            model(batch)
    return 12


class Sharded(torch.optim.Optimizer):
    """Wraps another optimizer as ZeroRedundancyOptimizer does: both call the global hooks."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def step(self, closure=None):
        return self.inner.step(closure)


def wrapped_optimizer():
    model, optimizer = model_and()
    wrapper = Sharded(optimizer)
    for (batch,) in data():
        train_step(model, wrapper, batch)
    return 12


def raising_step():
    model, optimizer = model_and(torch.optim.LBFGS)

    def fails():
        raise MemoryError

    def works():
        loss = model(torch.ones(1, 4)).square().sum()
        loss.backward()
        return loss

    for index in range(8):
        try:
            optimizer.step(fails if index == 3 else works)
        except MemoryError:
            optimizer.zero_grad()
    return 7


def marked_by_the_user():
    model, optimizer = model_and()
    for index, (batch,) in enumerate(data()):
        train_step(model, optimizer, batch)
        if index % 3 == 2:
            boundscope.step()
    return 4


def folds():
    for steps in (5, 9, 7):
        model, optimizer = model_and()
        for _ in range(steps):
            train_step(model, optimizer)
    return 21


def rare_auxiliary():
    (model, optimizer), (other, auxiliary) = model_and(), model_and()
    for index in range(30):
        train_step(model, optimizer)
        if index == 15:
            train_step(other, auxiliary)
    return 30


def seven_optimizers():
    pairs = [model_and() for _ in range(7)]
    for _ in range(10):
        for model, optimizer in pairs:
            train_step(model, optimizer)
    return 10


def validation_without_gradients():
    model, optimizer = model_and()
    for (batch,) in data():
        train_step(model, optimizer, batch)
        begin, times = now(), []
        with torch.no_grad():
            for (other,) in data(3):
                times.append(now())
                model(other)
                time.sleep(EVAL_S / 3)
                times.append(now())
        EVALUATIONS.append([begin, times[0], times[-1], now()])
    return 12


def validation_of_resident_data():
    """Every third step, without a loader and without eval()."""
    model, optimizer = model_and()
    held_out = torch.randn(40, 1, 4)
    for index in range(12):
        train_step(model, optimizer)
        if index % 3 == 0:
            times = [now()]
            with torch.no_grad():
                for part in held_out:  # more calls than are timed in a step of training
                    model(part)
                    times.append(now())
                    time.sleep(EVAL_S / 40)
                    times.append(now())
                model(held_out[0])
            EVALUATIONS.append([times[0], times[1], times[-1], now()])
    return 12


def teacher_of_resident_data():
    model, optimizer = model_and()
    teacher = nn.Linear(4, 1)
    for _ in range(12):
        with torch.no_grad():
            teacher(torch.randn(1, 4))
            teacher(torch.randn(1, 4))
        train_step(model, optimizer)
    return 12


def validation_by_mode():
    model, optimizer = model_and()
    for _ in range(12):
        train_step(model, optimizer)
        times = [now()]
        model.eval()
        times.append(now())
        time.sleep(EVAL_S)
        times.append(now())
        model.train()
        EVALUATIONS.append([*times, now()])
    return 12


def validation_of_two_models():
    (first, for_first), (second, for_second) = model_and(), model_and()
    for _ in range(12):
        train_step(first, for_first)
        train_step(second, for_second)
        times = [now()]
        first.eval()
        times.append(now())
        second.eval()
        time.sleep(EVAL_S)
        first.train()
        times.append(now())
        second.train()
        EVALUATIONS.append([*times, now()])
    return 12


def frozen_teacher():
    model, optimizer = model_and()
    teacher = nn.Linear(4, 1)
    for (batch,) in data():
        teacher.eval()
        with torch.no_grad():
            teacher(batch)
        time.sleep(EVAL_S)
        train_step(model, optimizer, batch)
    return 12


def functional_forward():
    """The loss is the only module."""
    weight = nn.Parameter(torch.randn(4, 3))
    optimizer, loss_of = torch.optim.SGD([weight], lr=0.01), nn.CrossEntropyLoss()
    for (batch,) in data():
        optimizer.zero_grad()
        loss_of(torch.relu(batch @ weight), torch.tensor([1])).backward()
        optimizer.step()
    return 12


def one_iterator_a_step():
    model, optimizer = model_and()
    loader = data()
    for _ in range(12):
        (batch,) = next(iter(loader))
        train_step(model, optimizer, batch)
    return 12


class Stream(IterableDataset):
    def __iter__(self):
        for _ in range(12):
            time.sleep(0.005)
            yield torch.randn(4)


class Prefetching(DataLoader):
    """Fetches one batch ahead, as the loaders of accelerate do."""

    def __iter__(self):
        batches = super().__iter__()
        ahead = next(batches)
        for batch in batches:
            yield ahead
            ahead = batch
        yield ahead


def loader_of_its_own():
    model, optimizer = model_and()
    for batch in Prefetching(Stream(), batch_size=1):
        train_step(model, optimizer, batch)
    return 12


class Nested(Dataset):
    """Reads every item with a loader of its own."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.cat([batch for (batch,) in data(3)])


def loader_within_a_loader():
    model = nn.Linear(4, 1)
    for batch in DataLoader(Nested(), batch_size=1):
        model(batch).sum().backward()
    return 12


def two_loaders_side_by_side():
    model = nn.Linear(4, 1)
    first = iter(data())
    second = iter(data())
    for _ in range(12):
        (batch,) = next(first)
        (other,) = next(second)
        model(batch + other).sum().backward()
    return 12


KINDS = [
    single,
    gan,
    gan_without_loader,
    wgan,
    accumulation,
    lbfgs,
    skipped_by_amp,
    manual_update,
    manual_update_of_resident_data,
    inference,
    wrapped_optimizer,
    raising_step,
    marked_by_the_user,
    folds,
    rare_auxiliary,
    seven_optimizers,
    validation_without_gradients,
    validation_of_resident_data,
    validation_by_mode,
    validation_of_two_models,
    frozen_teacher,
    teacher_of_resident_data,
    functional_forward,
    one_iterator_a_step,
    loader_of_its_own,
    loader_within_a_loader,
    two_loaders_side_by_side,
]


def report(kind, answers):
    steps = kind()
    answers.put((kind.__name__, multiprocessing.current_process().pid, steps, EVALUATIONS))


def main():
    import_module("torch._dynamo")  # once, not in every child
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    result = {}
    for kind in KINDS:
        child = context.Process(target=report, args=(kind, answers))
        child.start()
        child.join()
        if child.exitcode:
            sys.exit(f"{kind.__name__} failed")
        name, *told = answers.get()
        result[name] = told
    print(json.dumps(result))


if __name__ == "__main__":
    main()
