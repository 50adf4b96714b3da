"""Trains a variational autoencoder against a discriminator: two optimizers a step."""

from __future__ import annotations

import torch
from job import Job, options
from removals import without_arithmetic
from samples import sample_maker
from torch import nn
from torch.nn import functional

PIXELS, LATENT, BATCH = 784, 32, 128


class Autoencoder(nn.Module):
    """Pixels to a Gaussian in the latent space, a draw of it back to pixels."""

    def __init__(self, hidden: int):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(PIXELS, hidden), nn.ReLU())
        self.mean = nn.Linear(hidden, LATENT)
        self.log_variance = nn.Linear(hidden, LATENT)
        self.decode = nn.Sequential(
            nn.Linear(LATENT, hidden), nn.ReLU(), nn.Linear(hidden, PIXELS), nn.Sigmoid()
        )

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.encode(pixels)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden).tanh()
        latent = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        divergence = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).mean()
        return self.decode(latent), divergence


def main() -> None:
    args = options(__doc__).parse_args()
    job = Job(args)
    hidden = int(768 * args.size)
    core = Autoencoder(hidden)
    critic = nn.Sequential(nn.Linear(PIXELS, hidden), nn.ReLU(), nn.Linear(hidden, 1))
    if job.without("compute"):
        without_arithmetic(core)
        without_arithmetic(critic)
    model = job.surround(core)
    fused = True if job.without("memory") else None
    for_model = torch.optim.Adam(model.parameters(), lr=1e-4, fused=fused)
    for_critic = torch.optim.Adam(critic.parameters(), lr=1e-4, fused=fused)
    make = sample_maker(torch.rand(2048, PIXELS))
    for step, (pixels, *_) in enumerate(job.batches(make, BATCH, whole=True)):
        rebuilt, divergence = model(pixels)
        doubt = functional.softplus(critic(pixels)).mean()
        doubt = doubt + functional.softplus(-critic(rebuilt.detach())).mean()
        for_critic.zero_grad()
        doubt.backward()
        for_critic.step()
        loss = functional.mse_loss(rebuilt, pixels) + divergence
        loss = loss + 0.01 * functional.softplus(critic(rebuilt)).mean()
        for_model.zero_grad()
        loss.backward()
        for_model.step()
        job.end_of_step(step, model, loss, lambda x=pixels: model(x))
    job.close()


if __name__ == "__main__":
    main()
