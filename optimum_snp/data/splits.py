"""Which folders are splits: by their names, and only where no other reading is possible."""

import re

from .names import normalised
from .tree import ImageTree


SPLITS = ("train", "validation", "test")

# How folders of splits are called, and the split that each holds.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "validation"),
}

# A folder of this name holds all images, and is no class.
_CONTAINERS = frozenset({"images", "image", "imgs", "img", "data", "dataset"})


def split_of(name: str) -> str | None:
    """The split that a folder of this name holds, or `None`."""
    return SPLIT_WORDS.get(normalised(name))


def find_splits(tree: ImageTree) -> dict[str, ImageTree] | None:
    """The folders of splits by what they hold, or `None` where the subfolders are classes or there are none.

    Raises:
        ValueError: If they could be either.
    """
    splits = _splits_of(tree)
    if splits is not None:
        return {split: _without_containers(splits[split]) for split in SPLITS if split in splits}
    if len(tree.folders) == 1 and not tree.images:
        return find_splits(next(iter(tree.folders.values())))  # such as images/train
    return None


def _splits_of(tree: ImageTree) -> dict[str, ImageTree] | None:
    read = {name: _read(name) for name in tree.folders}
    known = {name: found for name, found in read.items() if found is not None}
    if not known:
        return None
    rests = {rest for _, rest in known.values()}
    kinds = [split for split, _ in known.values()]
    if len(known) == len(read) and len(rests) == 1 and (len(known) > 1 or rests == {""}):
        if len(set(kinds)) < len(kinds):
            raise ValueError(_doubt(tree, "two of them for one split"))
        return {split: tree.folders[name] for name, (split, _) in known.items()}
    for rest in rests:
        if len({split for split, other in known.values() if other == rest}) > 1:
            raise ValueError(_doubt(tree, "some named after splits and others not"))
    nested = [name for name, (_, rest) in known.items() if rest == "" and not tree.folders[name].images]
    if nested:
        raise ValueError(_doubt(tree, f"of which {nested[0]!r} holds folders itself"))
    return None


def _read(name: str) -> tuple[str, str] | None:
    """Split and rest of a folder's name, such as `("train", "seg")` of `seg_train`."""
    words = re.sub(r"(?<=[^\W\d_])\d+$", "", normalised(name)).split()  # train2017
    places = [place for place, word in enumerate(words) if word in SPLIT_WORDS]
    if len(places) != 1:
        return None
    return SPLIT_WORDS[words[places[0]]], " ".join(words[: places[0]] + words[places[0] + 1 :])


def _without_containers(tree: ImageTree) -> ImageTree:
    """Of `seg_train/seg_train/class` or `train/images/class` the folder above the classes."""
    while len(tree.folders) == 1 and not tree.images:
        ((name, inner),) = tree.folders.items()
        is_repeated = normalised(name) == normalised(tree.path.name)
        if not (is_repeated or normalised(name) in _CONTAINERS):
            break
        tree = inner
    return tree


def _doubt(tree: ImageTree, problem: str) -> str:
    names = ", ".join(map(repr, list(tree.folders)[:10])) + (", …" if len(tree.folders) > 10 else "")
    return (
        f"The folder {tree.path} has the subfolders {names}, {problem}: which are splits and which are classes "
        "cannot be told. Name the folder of one split, or move or rename what does not belong there."
    )
