"""Trains a recommender: embeddings of users and items, and a perceptron over both."""

from __future__ import annotations

import torch
from job import Job, options
from removals import without_arithmetic
from samples import sample_maker
from torch import nn
from torch.nn import functional

WIDTH, BATCH, ROWS = 64, 512, 8192


class Recommender(nn.Module):
    """Scores pairs of a user and an item."""

    def __init__(self, rows: int, hidden: int, sparse: bool):
        super().__init__()
        self.users = nn.Embedding(rows, WIDTH, sparse=sparse)
        self.items = nn.Embedding(rows, WIDTH, sparse=sparse)
        self.score = nn.Sequential(
            nn.Linear(2 * WIDTH, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([self.users(users), self.items(items)], dim=1)
        return self.score(joined).squeeze(1)  # type: ignore[no-any-return]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, default=2000, help="users, and as many items")
    args = parser.parse_args()
    job = Job(args)
    # Memory removed: the gradient holds the rows that were used, not the whole table.
    model = Recommender(args.rows, int(512 * args.size), sparse=job.without("memory"))
    if job.without("compute"):
        without_arithmetic(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    users, items = torch.randint(args.rows, (2, ROWS))
    make = sample_maker(users, items, torch.rand(ROWS))
    for step, (user, item, rating, *_) in enumerate(job.batches(make, BATCH, whole=True)):
        loss = functional.mse_loss(model(user, item), rating)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        job.end_of_step(step, model, loss, lambda u=user, i=item: model(u, i))
    job.close()


if __name__ == "__main__":
    main()
