"""Saving a pruned model so that it loads anywhere."""

from .saving import atomic_folder, check_save_directory


__all__ = ["atomic_folder", "check_save_directory"]
