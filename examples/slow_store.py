"""Trains a small image classifier on items that live in a slow store.

Every item is a file of its own, read when it is asked for; the store answers each request after
a latency, as an object store over the network does.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

SIDE = 32
CLASSES = 10


class ObjectStore:
    """A folder of objects in which every request takes `latency_s` before the first byte."""

    def __init__(self, folder: Path, latency_s: float):
        self.folder = folder
        self.latency_s = latency_s

    def put(self, key: str, data: bytes) -> None:
        (self.folder / key).write_bytes(data)

    def get(self, key: str) -> bytes:
        time.sleep(self.latency_s)
        return (self.folder / key).read_bytes()


class StoredImages(Dataset):
    """One object an image: the label in the first byte, then 3 x 32 x 32 bytes of pixels."""

    def __init__(self, store: ObjectStore, count: int):
        self.store = store
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        data = torch.frombuffer(bytearray(self.store.get(f"{index:06d}")), dtype=torch.uint8)
        image = data[1:].view(3, SIDE, SIDE).float().div_(255)
        return image, data[0].long()


def fill(store: ObjectStore, count: int, generator: torch.Generator) -> None:
    for index in range(count):
        label = torch.randint(CLASSES, (1,), generator=generator, dtype=torch.uint8)
        pixels = torch.randint(200, (3 * SIDE * SIDE,), generator=generator, dtype=torch.uint8)
        pixels = pixels + 5 * label
        store.put(f"{index:06d}", bytes(torch.cat([label, pixels]).tolist()))


def build_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 8 * 8, CLASSES),
    )


def batches(loader: DataLoader, steps: int):
    done = 0
    while done < steps:
        for batch in loader:
            yield batch
            done += 1
            if done == steps:
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, default=4.0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        store = ObjectStore(Path(folder), args.latency_ms / 1000)
        dataset = StoredImages(store, count=800)
        fill(store, len(dataset), torch.Generator().manual_seed(args.seed))
        loader = DataLoader(
            dataset, batch_size=args.batch_size, shuffle=True, num_workers=args.workers
        )
        model = build_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for step, (images, labels) in enumerate(batches(loader, args.steps)):
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 20 == 0 or step == args.steps - 1:
                print(f"step {step:4d}  loss {loss.item():.6f}", flush=True)


if __name__ == "__main__":
    main()
