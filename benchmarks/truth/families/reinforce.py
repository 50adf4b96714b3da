"""Trains a policy to balance poles by REINFORCE; the poles are simulated in the loop itself."""

from __future__ import annotations

import math
import random

import torch
from compiled_poles import compiled_poles
from job import Job, options
from removals import without_arithmetic
from torch import nn

TIMES = 20
SUBSTEPS = 8
Rollout = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Pole:
    """One pole on a cart, simulated in Python; the state has four numbers."""

    def __init__(self) -> None:
        self.state = [random.uniform(-0.05, 0.05) for _ in range(4)]

    def push(self, action: int) -> float:
        """One time step; the reward is higher the more upright the pole stands."""
        place, speed, angle, turn = self.state
        force = 10.0 if action else -10.0
        for _ in range(SUBSTEPS):  # planted: environment
            sine, cosine = math.sin(angle), math.cos(angle)  # planted: environment
            push = (force + 0.05 * turn**2 * sine) / 1.1  # planted: environment
            swing = (9.8 * sine - cosine * push) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))  # planted: environment  # noqa: E501  # fmt: skip
            place, speed = place + 0.005 * speed, speed + 0.005 * push  # planted: environment
            angle, turn = angle + 0.005 * turn, turn + 0.005 * swing  # planted: environment
        self.state = [place, speed, angle, turn] if abs(angle) < 1 else [0.0] * 4
        return math.cos(angle)


class Game:
    """Many poles; `play` lets a policy push them for a while."""

    def __init__(self, poles: int, without_python: bool, resident: bool):
        self.poles = [Pole() for _ in range(poles)]
        self.states = torch.zeros(poles, 4)
        # Host removed: the same mechanics in one compiled call a time step.
        self.compiled = compiled_poles(SUBSTEPS) if without_python else None
        self.resident = resident
        self.rewards = torch.ones(poles)

    def play(self, policy: nn.Module) -> Rollout:
        """States (times, poles, 4), actions and rewards (times, poles)."""
        states, actions, rewards = [], [], []
        for _ in range(TIMES):
            with torch.no_grad():
                action = torch.bernoulli(torch.sigmoid(policy(self.states).squeeze(1)))
            states.append(self.states)
            actions.append(action)
            rewards.append(self.advance(action))
        return torch.stack(states), torch.stack(actions), torch.stack(rewards)

    def advance(self, action: torch.Tensor) -> torch.Tensor:
        """Move every pole by one time step; the rewards."""
        if self.resident:
            # Input removed: the states and rewards are there; the policy still acts on them.
            return self.rewards
        if self.compiled is not None:
            self.states, rewards = self.compiled(self.states, action)
            return rewards
        pushes = zip(self.poles, action.tolist(), strict=True)
        gained = [pole.push(int(way)) for pole, way in pushes]  # planted: environment
        self.states = torch.tensor([pole.state for pole in self.poles])  # planted: environment
        return torch.tensor(gained)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--poles", type=int, default=32)
    args = parser.parse_args()
    job = Job(args)
    width = int(256 * args.size)
    policy = nn.Sequential(
        nn.Linear(4, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
    )
    if job.without("compute"):
        without_arithmetic(policy)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    game = Game(args.poles, job.without("host"), job.without("input"))
    for step in range(args.steps):
        states, actions, rewards = game.play(policy)
        returns = rewards.flip(0).cumsum(0).flip(0)
        advantage = (returns - returns.mean()) / (returns.std() + 1e-6)
        logits = policy(states).squeeze(2)
        chosen = -nn.functional.binary_cross_entropy_with_logits(logits, actions, reduction="none")
        loss = -(chosen * advantage).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        job.end_of_step(step, policy, loss, lambda: policy(game.states))
    job.close()


if __name__ == "__main__":
    main()
