"""Trains a small image classifier on compressed images that are decoded as they are asked for.

The images are stored as PNG stores them (row differences, then deflate) and are augmented after
decoding, all of it in the training process.
"""

import argparse
import zlib

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

STORED_SIDE = 192
CROP_SIDE = 64
CLASSES = 10


def encode(image: np.ndarray) -> bytes:
    """PNG's "up" filter and deflate: `image` is (height, width, 3) of uint8."""
    previous_row = np.vstack([np.zeros_like(image[:1]), image[:-1]])
    return zlib.compress((image - previous_row).tobytes(), 6)


def decode(data: bytes) -> np.ndarray:
    differences = np.frombuffer(zlib.decompress(data), dtype=np.uint8)
    rows = differences.reshape(STORED_SIDE, STORED_SIDE, 3)
    return np.cumsum(rows, axis=0, dtype=np.uint8)


def augment(image: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Random crop, flip, contrast and resize; returns (3, CROP_SIDE, CROP_SIDE) of float32."""
    size = int(rng.integers(STORED_SIDE // 2, STORED_SIDE))
    top, left = rng.integers(0, STORED_SIDE - size, 2)
    crop = image[top : top + size, left : left + size]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    pixels = crop.astype(np.float32) / 255
    mean = pixels.mean(axis=(0, 1), keepdims=True)
    pixels = (pixels - mean) * rng.uniform(0.7, 1.3) + mean
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return nn.functional.interpolate(
        tensor[None], size=CROP_SIDE, mode="bilinear", antialias=True, align_corners=False
    )[0]


class CompressedImages(Dataset):
    def __init__(self, count: int, seed: int):
        self.rng = np.random.default_rng(seed)
        self.labels = self.rng.integers(0, CLASSES, count)
        self.files = [encode(self.draw(int(label))) for label in self.labels]

    def draw(self, label: int) -> np.ndarray:
        """Smooth stripes whose width tells the label, and noise."""
        across = np.arange(STORED_SIDE, dtype=np.float32)
        stripes = 100 + 60 * np.sin(across * (label + 1) / 20)
        noise = self.rng.normal(0, 8, (STORED_SIDE, STORED_SIDE, 3))
        return np.clip(stripes[:, None, None] + noise, 0, 255).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int):
        image = decode(self.files[index])
        return augment(image, self.rng), int(self.labels[index])


def build_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=4, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 8 * 8, CLASSES),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=16)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    dataset = CompressedImages(count=args.batch_size * 20, seed=args.seed)
    loader = DataLoader(dataset, batch_size=args.batch_size, shuffle=True, num_workers=0)
    model = build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step = 0
    while step < args.steps:
        for images, labels in loader:
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 20 == 0 or step == args.steps - 1:
                print(f"step {step:4d}  loss {loss.item():.6f}", flush=True)
            step += 1
            if step == args.steps:
                break


if __name__ == "__main__":
    main()
