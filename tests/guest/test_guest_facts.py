"""What is recorded of a loader and of an optimizer, for advice in the user's own terms."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from boundscope.collectors.inside.facts import loader_facts, optimizer_facts

torch = pytest.importorskip("torch")


def test_a_stream_is_told_from_a_dataset_with_indices() -> None:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    class Indexed(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> int:
            return index

    stream = loader_facts(torch.utils.data.DataLoader(Stream()))
    indexed = loader_facts(torch.utils.data.DataLoader(Indexed()))

    assert (stream["kind"], indexed["kind"]) == ("iterable", "map")
    assert stream["fetch_file"] == indexed["fetch_file"] == __file__
    assert stream["fetch_line"] == str(Stream.__iter__.__code__.co_firstlineno)
    assert indexed["fetch_line"] == str(Indexed.__getitem__.__code__.co_firstlineno)


def test_an_optimizer_tells_its_class_and_whether_it_updates_in_one_pass() -> None:
    weights = [torch.nn.Parameter(torch.ones(2))]

    plain = optimizer_facts(torch.optim.AdamW(weights))
    optimizer = torch.optim.AdamW(weights)
    optimizer.defaults["fused"] = True  # given to the class, older releases take it on CUDA alone

    assert plain == {"class": "AdamW", "fused": "False"}
    assert optimizer_facts(optimizer) == {"class": "AdamW", "fused": "True"}
    assert optimizer_facts(torch.optim.RMSprop(weights)) == {"class": "RMSprop"}
    assert optimizer_facts(object()) == {"class": "object"}
