"""Trains a graph network that scatters messages along edges, on batches of graphs."""

from __future__ import annotations

import torch
from job import Job, options
from removals import without_arithmetic
from samples import sample_maker
from torch import nn
from torch.nn import functional

NODES, EDGES, FEATURES, BATCH = 16, 64, 16, 32


class Convolution(nn.Module):
    """Each node gets the sum of its neighbours' messages."""

    def __init__(self, inputs: int, width: int, selected: bool):
        super().__init__()
        self.message = nn.Linear(inputs, width)
        self.own = nn.Linear(inputs, width)
        self.selected = selected

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        source, target = edges
        own = self.own(x)  # planted: tiny-ops
        if self.selected and self.training:
            # Memory removed: the same sums, rows are read and added up at memory's pace.
            return torch.relu(own.index_add(0, target, self.message(x).index_select(0, source)))
        messages = self.message(x)[source]  # planted: tiny-ops
        return torch.relu(own.index_add(0, target, messages))  # planted: tiny-ops


class GraphNetwork(nn.Module):
    """A prediction for each graph of a batch, graph by graph or all at once."""

    def __init__(self, width: int, one_by_one: bool, selected: bool):
        super().__init__()
        self.one_by_one = one_by_one
        self.layers = nn.ModuleList(
            Convolution(inputs, width, selected) for inputs in (FEATURES, width, width)
        )
        self.readout = nn.Linear(width, 1)

    def forward(self, nodes: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """`nodes` is (graphs, nodes, features), `edges` (graphs, 2, edges)."""
        if self.one_by_one:
            pairs = zip(nodes, edges, strict=True)
            return torch.cat([self.embed(x, pair, 1) for x, pair in pairs])  # planted: tiny-ops
        offsets = NODES * torch.arange(len(nodes)).view(-1, 1, 1)
        joined = (edges + offsets).transpose(0, 1).flatten(1)
        return self.embed(nodes.flatten(0, 1), joined, len(nodes))

    def embed(self, x: torch.Tensor, edges: torch.Tensor, graphs: int) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x, edges)  # planted: tiny-ops
        return self.readout(x.view(graphs, -1, x.shape[1]).mean(1)).squeeze(1)  # type: ignore[no-any-return]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--one-by-one", action="store_true", help="each graph by itself")
    parser.add_argument("--graphs", type=int, default=BATCH, help="in a batch")
    args = parser.parse_args()
    job = Job(args)
    # Host removed: the graphs of a batch as one graph, the same sums and products.
    one_by_one = args.one_by_one and not job.without("host")
    model = GraphNetwork(int(256 * args.size), one_by_one, job.without("memory"))
    if job.without("compute"):
        without_arithmetic(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    rows = 16 * BATCH
    edges = torch.randint(NODES, (rows, 2, EDGES))
    make = sample_maker(torch.randn(rows, NODES, FEATURES), edges, torch.rand(rows))
    for step, (nodes, links, target, *_) in enumerate(job.batches(make, args.graphs)):
        loss = functional.mse_loss(model(nodes, links), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        job.end_of_step(step, model, loss, lambda x=nodes, e=links: model(x, e))
    job.close()


if __name__ == "__main__":
    main()
