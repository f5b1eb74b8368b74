"""A layer that follows another layer of the network, as the core sees it."""

from __future__ import annotations

from abc import abstractmethod

from torch import nn


class FollowingLayer(nn.Module):
    """A layer whose weights follow those of a live layer of the backbone.

    Attributes:
        follower: the part that follows; None where nothing does.
    """

    follower: nn.Module | None

    @property
    @abstractmethod
    def live(self) -> nn.Module:
        """The layer that it follows."""

    @abstractmethod
    def start(self) -> None:
        """Take the weights that it starts from."""

    @abstractmethod
    def update(self) -> None:
        """Move the follower by one step, towards the live layer's present weights."""
