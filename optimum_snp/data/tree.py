"""The images below a folder: which entries are images, and which are not seen."""

import os
from collections import Counter
from pathlib import Path


# The endings of Pillow's formats that hold pixels of photographs and scans. A file is read by what is in it.
IMAGE_ENDINGS = frozenset(
    [
        ".apng",
        ".avif",
        ".bmp",
        ".dib",
        ".gif",
        ".j2c",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpc",
        ".jpe",
        ".jpeg",
        ".jpf",
        ".jpg",
        ".jpx",
        ".mpo",
        ".pbm",
        ".pcx",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".sgi",
        ".tga",
        ".tif",
        ".tiff",
        ".webp",
    ]
)

# What systems and tools put beside images; hidden entries are left out, too.
SYSTEM_ENTRIES = frozenset(
    {"__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin", "#recycle", "lost+found", "__pycache__"}
    | {"system volume information"}
)


class ImageTree:
    """The images below a folder, without hidden and system entries. Links are followed, once.

    Attributes:
        path (`Path`): The folder.
        images (`list[Path]`): Those that lie in it, by name.
        folders (`dict[str, ImageTree]`): The folders in it that hold images at any depth, by name.
        others (`Counter[str]`): How many other files there are, by their endings.
    """

    def __init__(self, path: Path, above: frozenset[str] = frozenset()):
        self.path = path
        self.images: list[Path] = []
        self.folders: dict[str, ImageTree] = {}
        self.others: Counter[str] = Counter()
        above = above | {os.path.realpath(path)}
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if entry.name.startswith(".") or entry.name.casefold() in SYSTEM_ENTRIES:
                continue
            if entry.is_dir():
                if os.path.realpath(entry.path) not in above:  # else a link that leads back
                    folder = ImageTree(Path(entry.path), above)
                    self.others += folder.others
                    if folder.images or folder.folders:
                        self.folders[entry.name] = folder
            elif os.path.splitext(entry.name)[1].casefold() in IMAGE_ENDINGS and not _is_special(entry):
                self.images.append(Path(entry.path))
            else:
                self.others[os.path.splitext(entry.name)[1].casefold() or "no ending"] += 1

    def all_images(self) -> list[Path]:
        """Those of the folder and of all below it."""
        return [*self.images, *(image for folder in self.folders.values() for image in folder.all_images())]


def _is_special(entry: os.DirEntry) -> bool:
    """Whether an entry is a pipe, a socket or a device: to read one may never end. A link to nothing is told later."""
    return not entry.is_file() and os.path.exists(entry.path)
