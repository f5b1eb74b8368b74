"""The interface of layers whose weights follow those of another layer."""

from __future__ import annotations

from abc import abstractmethod

from torch import nn


class FollowingLayer(nn.Module):
    """A layer whose weights follow those of a live layer of the backbone.

    Attributes:
        follower: the part whose weights follow, or None.
    """

    follower: nn.Module | None

    @property
    @abstractmethod
    def live(self) -> nn.Module:
        """The layer that is followed."""

    @property
    @abstractmethod
    def follows(self) -> bool:
        """Whether updates read the live layer at all."""

    @abstractmethod
    def start(self) -> None:
        """Set the initial weights, once the live layer has its own."""

    @abstractmethod
    def update(self) -> None:
        """Move the follower one step towards the current weights of the live layer."""
