"""What the sizes of a part would cost the outputs: the losses that a budget weighs against each other."""

from .errors import by_rank, nested_errors, per_channel, tails
from .losses import Losses


__all__ = ["Losses", "by_rank", "nested_errors", "per_channel", "tails"]
