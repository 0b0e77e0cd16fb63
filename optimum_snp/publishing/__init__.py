"""Saving a pruned model with its card, so that it loads anywhere and says what it is, and pushing it to the Hub."""

from .hub import check_push, check_push_of_training, make_branch, push_model
from .model_folder import write_history, write_model
from .saving import atomic_folder, check_save_directory


__all__ = [
    "atomic_folder",
    "check_push",
    "check_push_of_training",
    "check_save_directory",
    "make_branch",
    "push_model",
    "write_history",
    "write_model",
]
