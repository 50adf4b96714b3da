"""Trains a small language model on token sequences."""

from __future__ import annotations

from collections.abc import Callable

import torch
from job import Job, options
from removals import attend, without_arithmetic
from samples import sample_maker
from torch import nn
from torch.nn import functional

LENGTH, BATCH, HEADS = 64, 8, 4


class Block(nn.Module):
    """Attention and a two-layer perceptron, each after a norm and added to its input."""

    attend: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

    def __init__(self, width: int):
        super().__init__()
        self.attend = attend
        self.first_norm = nn.LayerNorm(width)
        self.second_norm, self.gelu = nn.LayerNorm(width), nn.GELU()
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        joined = self.project(self.first_norm(x)).view(batch, length, 3, HEADS, width // HEADS)
        query, key, value = joined.permute(2, 0, 3, 1, 4)
        mixed = self.attend(query, key, value).transpose(1, 2).reshape(x.shape)
        x = x + self.out(mixed)
        return x + self.narrow(self.gelu(self.widen(self.second_norm(x))))


class LanguageModel(nn.Module):
    """Tokens in, the logits of each next token out."""

    def __init__(self, vocabulary: int, width: int, blocks: int):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.head = nn.Linear(width, 256)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.embed(tokens)))  # type: ignore[no-any-return]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--vocabulary", type=int, default=1000)
    args = parser.parse_args()
    job = Job(args)
    model = LanguageModel(args.vocabulary, max(HEADS, 64 * int(3 * args.size)), blocks=2)
    if job.without("compute"):
        without_arithmetic(model)
    # Memory removed: the update in one fused pass, and the table's gradient only where used.
    model.embed.sparse = job.without("memory")
    table = list(model.embed.parameters())
    rest = [parameter for parameter in model.parameters() if parameter is not table[0]]
    fused = True if job.without("memory") else None
    kind = torch.optim.SparseAdam if job.without("memory") else torch.optim.Adam
    optimizers = [torch.optim.Adam(rest, lr=1e-3, fused=fused), kind(table, lr=1e-3)]
    make = sample_maker(torch.randint(args.vocabulary, (512, LENGTH + 1)))
    for step, (tokens, *_) in enumerate(job.batches(make, BATCH)):
        logits = model(tokens[:, :-1])
        target = tokens[:, 1:].flatten() % 256
        loss = functional.cross_entropy(logits.flatten(0, 1), target)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        job.end_of_step(step, model, loss, lambda x=tokens: model(x[:, :-1]))
    job.close()


if __name__ == "__main__":
    main()
