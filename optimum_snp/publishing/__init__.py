"""Saving a pruned model with its card, so that it loads anywhere and says what it is, and pushing it to the Hub."""

from .hub import check_push, check_push_of_training, prepare_push_of_training, push_model
from .model_folder import check_save, choose_layout, claim_folder, save_model, write_history


__all__ = [
    "check_push",
    "check_push_of_training",
    "check_save",
    "choose_layout",
    "claim_folder",
    "prepare_push_of_training",
    "push_model",
    "save_model",
    "write_history",
]
