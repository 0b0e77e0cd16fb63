"""Whether something can be written: tried before the work, since an error after hours of it would come too late."""

import shutil
import tempfile
from pathlib import Path


def writable_folder(save_directory: str | Path) -> Path:
    """Tells whether a folder can be written in one step, whatever it holds.

    Returns:
        `Path`: The absolute path of the folder.

    Raises:
        ValueError: If the path is a file, is the working directory or holds it, or cannot be written.
    """
    folder = Path(save_directory).expanduser().resolve()  # of a link, what it points to is replaced
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{save_directory} is a file. Name a folder to write to.")
    if Path.cwd().is_relative_to(folder) or _is_mount(folder):
        raise ValueError(
            f"{save_directory} is the working directory or holds it, or is a mount point, and cannot be replaced in "
            "one step. Name a folder of its own."
        )
    try:
        tempfile.TemporaryFile(dir=_nearest(folder.parent)).close()  # a kill leaves nothing of it
        if folder.exists():
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"{save_directory} cannot be written: {error}") from error
    return folder


def check_file(path: str | Path) -> Path:
    """Tells before any work whether a single file can be written.

    Returns:
        `Path`: The absolute path.

    Raises:
        ValueError: If it is a folder, or its folder does not exist, or it cannot be written there.
    """
    file = Path(path).expanduser().absolute()
    if file.is_dir() or not file.parent.is_dir():
        raise ValueError(f"{path} cannot be written: name a file in a folder that exists.")
    try:
        if file.exists():
            file.open("ab").close()
        tempfile.TemporaryFile(dir=file.parent).close()
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error}") from error
    return file


def check_space(path: str | Path, size: int) -> None:
    """Tells before any work whether so many bytes fit beside a file or folder that is to be written.

    Raises:
        ValueError: If not.
    """
    free = shutil.disk_usage(_nearest(Path(path).expanduser().absolute().parent)).free
    if free < size:
        raise ValueError(
            f"{path} cannot be written: {size / 1e6:,.0f} MB are needed there, and {free / 1e6:,.0f} MB are free."
        )


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder


def _is_mount(folder: Path) -> bool:
    try:
        return folder.is_mount()
    except NotImplementedError:  # on Windows before Python 3.12
        return folder == folder.parent
