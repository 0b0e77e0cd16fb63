"""Saving a pruned model with its card, so that it loads anywhere and says what it is."""

from .saving import atomic_folder, check_save_directory


__all__ = ["atomic_folder", "check_save_directory"]
