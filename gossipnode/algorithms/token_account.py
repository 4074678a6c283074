"""Token accounts: how often a gossip node sends, and how soon it passes on what was of use.

Each period a node sends one message with probability P(a), or saves a token, a ← a + 1. On an
arrival of usefulness u ∈ {0, 1} it takes r = min(R(a, u), a) tokens and sends r messages at once:
what is new travels in a chain instead of waiting for a period at each node::

    proactive          P = 1                                   R = 0
    reactive           P = 0                                   R = u
    simple(C)          P = [a ≥ C]                             R = [a > 0]
    generalized(C, A)  P = [a ≥ C]                             R = ⌊(A−1+a)/A⌋, or /2A if u = 0
    randomized(C, A)   P = 0 below A−1, (a−A+1)/(C−A+1) above  R = a/A, rounded at random, if u = 1

Invariant: 0 ≤ a ≤ C, and a message takes a token or a period's right to one. So of T periods in a
row come at most T + C messages, and in the long run one a period.

Letters: a balance, C capacity, A tokens held for each message of a reaction, u usefulness.

*Source*: Danner, Jelasity, ICDCS 2018.
*Differs from the source*: ``reactive`` saves no more than C tokens, and sends its first message
unasked, for else nobody would ever begin.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import model_validator

from gossipnode.options import AlgorithmOptions, option

Flow = Literal["proactive", "reactive", "simple", "generalized", "randomized"]


class FlowOptions(AlgorithmOptions):
    """When a gossip node sends: by the clock, or in answer to what arrives."""

    flow: Flow = option(
        "proactive",
        "proactive: once a period. The others save tokens and spend them on passing on at once "
        "what arrives: reactive, simple, generalized, randomized (see the algorithm's page).",
        flag="--flow",
    )
    token_capacity: int = option(
        20,
        "Tokens that a node saves at most (C): by so many its messages of any stretch of time may "
        "exceed one a period.",
        unit="tokens",
        ge=1,
        le=1_000_000,
    )
    tokens_per_reaction: int = option(
        10,
        "Tokens held for each message sent in reaction (A ≤ C), by generalized and randomized; "
        "fewer react more strongly.",
        unit="tokens",
        ge=1,
        le=1_000_000,
    )

    @model_validator(mode="after")
    def _reactions_are_within_capacity(self) -> FlowOptions:
        if self.uses_reserve and self.tokens_per_reaction > self.token_capacity:
            raise ValueError(
                f"tokens_per_reaction is {self.tokens_per_reaction}, more than token_capacity "
                f"{self.token_capacity}: choose at most as much"
            )
        return self

    @property
    def uses_reserve(self) -> bool:
        """Whether the strategy has an A."""
        return self.flow in ("generalized", "randomized")

    def account(self) -> TokenAccount:
        """Return a new account of this strategy, empty."""
        return TokenAccount(self.flow, self.token_capacity, self.tokens_per_reaction)


class TokenAccount:
    """One account: ``balance`` is a; ``C`` ≥ 1, and 1 ≤ ``A`` ≤ C where ``flow`` uses it."""

    def __init__(self, flow: Flow, C: int, A: int = 1) -> None:
        self.flow, self.C, self.A = flow, C, A
        self.balance = 0
        self.begun = False

    def proactive(self) -> float:
        """Return P(a), the probability of sending now that a period is over."""
        a, A, C = self.balance, self.A, self.C
        match self.flow:
            case "proactive":
                return 1.0
            case "reactive":
                return 0.0 if self.begun else 1.0
            case "randomized":
                return max(0, a - A + 1) / (C - A + 1)
        return float(a >= C)

    def reactive(self, useful: bool, rng: np.random.Generator) -> int:
        """Return R(a, u), the messages to send on an arrival, before it is cut to a."""
        a, A = self.balance, self.A
        match self.flow:
            case "proactive":
                return 0
            case "reactive":
                return int(useful)
            case "simple":
                return int(a > 0)
            case "generalized":
                return (A - 1 + a) // (A if useful else 2 * A)
        whole, rest = divmod(a, A)
        return whole + int(rng.random() * A < rest) if useful else 0

    def tick(self, rng: np.random.Generator) -> bool:
        """Tell whether to send now that a period is over; if not, a token is saved."""
        chance = self.proactive()
        self.begun = True
        if chance == 1.0 or (chance and rng.random() < chance):
            return True
        self.refund(1)
        return False

    def spend(self, useful: bool, rng: np.random.Generator) -> int:
        """Take the tokens of a reaction and return how many messages they pay."""
        r = min(self.reactive(useful, rng), self.balance)
        self.balance -= r
        return r

    def refund(self, tokens: int) -> None:
        """Put ``tokens`` in, for messages that were not sent after all; no more than fit."""
        self.balance = min(self.balance + tokens, self.C)
