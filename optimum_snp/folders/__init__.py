"""Folders of results: where one may be written, and how it gets there whole, whatever ends the process meanwhile."""

from .atomic import atomic_file, atomic_folder, check_save_directory
from .model_files import is_model_file
from .replacing import recover_folder
from .scratch import scratch_folder
from .signals import ending_cleanly
from .writable import check_file, check_space


__all__ = [
    "atomic_file",
    "atomic_folder",
    "check_file",
    "check_save_directory",
    "check_space",
    "ending_cleanly",
    "is_model_file",
    "recover_folder",
    "scratch_folder",
]
