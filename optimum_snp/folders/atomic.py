"""Writing a folder so that it is the old or the new one at every instant, with a person's files in it."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from ..file_names import MEASUREMENTS_NAME
from .exchange import flush
from .model_files import MODEL_MARKS, is_model_file
from .replacing import lock_of, put_in_place, recover, recover_folder
from .signals import ending_cleanly, undisturbed
from .writable import check_file, writable_folder


def check_save_directory(
    save_directory: str | Path, *, overwrite: bool = False, marks: Collection[str] = MODEL_MARKS
) -> Path:
    """Tells before any work whether something can be saved in a folder.

    Args:
        save_directory (`str` or `Path`):
            The folder.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether what this library saved there before may be replaced.
        marks (`Collection[str]`, *optional*):
            Patterns of the files by which a folder shows that this library wrote it; by default those of models.

    Returns:
        `Path`: The absolute path of the folder.

    Raises:
        ValueError: If the path is a file, is the working directory or holds it, or cannot be written; or if it holds
            anything and this library did not write it, or `overwrite` is `False`.
    """
    folder = writable_folder(save_directory)
    recover_folder(folder)
    if not folder.exists() or not {path.name for path in folder.iterdir()} - {MEASUREMENTS_NAME}:
        return folder  # measurements alone are what a run leaves that came no further
    if not any(next(folder.glob(mark), None) for mark in marks):
        raise ValueError(
            f"{save_directory} holds files that this library did not write, and no such folder is replaced. Name a "
            "new one."
        )
    if not overwrite:
        raise ValueError(
            f"{save_directory} holds what was saved there before. Name a new folder, or replace it with "
            "overwrite=True (on the command line --overwrite)."
        )
    return folder


@contextlib.contextmanager
def atomic_folder(save_directory: str | Path, is_replaced: Callable[[str], bool] = is_model_file) -> Iterator[Path]:
    """Gives an empty folder to fill, which becomes `save_directory` when the block ends without an error.

    A model that is saved there already is replaced as a whole; other files of that folder are kept, and stay where
    they are at every instant. Of processes that save to one folder at once, one waits for the other.

    Args:
        save_directory (`str` or `Path`):
            The folder.
        is_replaced (`Callable`, *optional*, defaults to [`is_model_file`]):
            Which files of a folder that is there already go, by their paths in it.

    Raises:
        ValueError: As [`check_save_directory`], whatever the folder holds.
        OSError: If it cannot be written after all; it is the old one then.
    """
    folder = writable_folder(save_directory)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with ending_cleanly(), lock_of(folder):
        with undisturbed():
            recover(folder)
        # Beside the target, since only within one file system a rename is one step.
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.new-", dir=folder.parent))
        try:
            yield staging
            _give_usual_rights(staging)
            with undisturbed():
                put_in_place(staging, folder, is_replaced)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Gives the path of a file to write, which becomes `path` when the block ends without an error.

    Raises:
        ValueError: As [`check_file`].
        OSError: If it cannot be written after all; what was there before stays.
    """
    file = check_file(path)
    with ending_cleanly(), tempfile.TemporaryDirectory(prefix=f".{file.name}.new-", dir=file.parent) as temporary:
        staging = Path(temporary, file.name)
        yield staging
        _give_usual_rights(staging)
        flush(staging.parent)
        staging.replace(file)


def _give_usual_rights(place: Path) -> None:
    """Lifts the privacy of temporary folders, and of the weights that safetensors writes."""
    mask = os.umask(0)
    os.umask(mask)
    for path in (place, *place.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
