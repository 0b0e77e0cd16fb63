"""Writing a model's folder so that a crash leaves the old folder or none, never half of a new one."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from .file_names import CONFIG_NAME, MEASUREMENTS_NAME, PLAN_NAME


# training_args.bin and adapters are what a Trainer writes beside weights or instead; ours replace those.
_MODEL_FILES = re.compile(
    rf"{re.escape(CONFIG_NAME)}|{re.escape(PLAN_NAME)}|{re.escape(MEASUREMENTS_NAME)}"
    r"|config\.json|generation_config\.json|(pre)?processor_config\.json|pictures/(kept_sizes|attention_spectra)\.png"
    r"|model(\.\w+)?(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index(\.\w+)?\.json"
    r"|(configuration|modeling)_snp_\w+\.py|training_args\.bin|adapter_(config\.json|model\.safetensors)"
)


def is_model_file(path: str) -> bool:
    """Whether a file belongs to a saved model and goes when another takes its place; all else is a person's.

    Args:
        path (`str`):
            Relative to the folder or repository of the model, with `/` between its parts.
    """
    return bool(_MODEL_FILES.fullmatch(path))


def check_save_directory(save_directory: str | Path) -> Path:
    """Tells before any work whether a model can be saved there.

    Returns:
        `Path`: The absolute path of the folder.

    Raises:
        ValueError: If the path is a file, is the working directory or holds it, or cannot be written.
    """
    folder = Path(save_directory).expanduser().resolve()  # of a link, what it points to is replaced
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{save_directory} is a file. Name a folder to save the model in.")
    if Path.cwd().is_relative_to(folder) or folder.is_mount():
        raise ValueError(
            f"{save_directory} is the working directory or holds it, or is a mount point, and cannot be replaced in "
            "one step. Name a folder of its own to save the model in."
        )
    parent = folder.parent
    while not parent.exists():
        parent = parent.parent
    try:
        tempfile.TemporaryDirectory(dir=parent).cleanup()
    except OSError as error:
        raise ValueError(f"{save_directory} cannot be written: {error}") from error
    return folder


@contextlib.contextmanager
def atomic_folder(save_directory: str | Path, is_replaced: Callable[[str], bool] = is_model_file) -> Iterator[Path]:
    """Gives an empty folder to fill, which becomes `save_directory` when the block ends without an error.

    A model that is saved there already is replaced as a whole; other files of that folder are kept.

    Args:
        save_directory (`str` or `Path`):
            The folder.
        is_replaced (`Callable`, *optional*, defaults to [`is_model_file`]):
            Which files of a folder that is there already go, by their paths in it.

    Raises:
        ValueError: As [`check_save_directory`].
    """
    folder = check_save_directory(save_directory)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, since only within one file system a rename is one step.
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.new-", dir=folder.parent))
    try:
        yield staging
        _give_usual_rights(staging)
        if folder.exists():
            _replace(folder, staging, is_replaced)
        else:
            staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _replace(folder: Path, staging: Path, is_replaced: Callable[[str], bool]) -> None:
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old-", dir=folder.parent))
    folder.rename(old)
    try:
        staging.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    for parent, folders, files in os.walk(old):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for path in (Path(parent) / name for name in files + links):
            kept = folder / path.relative_to(old)
            if not is_replaced(path.relative_to(old).as_posix()) and not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                path.rename(kept)
    shutil.rmtree(old)


def _give_usual_rights(folder: Path) -> None:
    """Lifts the privacy of temporary folders, and of the weights that safetensors writes."""
    mask = os.umask(0)
    os.umask(mask)
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
