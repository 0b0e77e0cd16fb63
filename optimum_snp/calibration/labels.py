"""Which class of a model each class of a data set is."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any


logger = logging.getLogger(__name__)

# Names that must agree for two long lists to be one: names of ImageNet's classes come in slightly different spellings.
LEAST_AGREEMENT = 0.99


def has_names(id2label: Mapping[int, str]) -> bool:
    """Whether labels are more than the numbers that transformers gives them where nobody named them."""
    return not all(re.fullmatch(r"LABEL_\d+", str(name)) for name in id2label.values())


def are_same_classes(names: Sequence[str], id2label: Mapping[int, str]) -> bool:
    """Whether these are the classes of a model in its order, though a few of many may be spelled otherwise.

    Folders named by WordNet ids (`n01440764`) are in the order of all models of ImageNet.
    """
    if len(names) != len(id2label):
        return False
    if all(re.fullmatch(r"n\d{8}", name) for name in names):
        return list(names) == sorted(names)
    agreeing = sum(id2label.get(index) == name for index, name in enumerate(names))
    return agreeing >= LEAST_AGREEMENT * len(names)


def label_ids(names: Sequence[str], config: Any) -> dict[int, int]:
    """The model's number for each class of a data set that names them; they may count differently.

    A folder of images counts its classes by the alphabet, for example, and may lack some.

    Returns:
        `dict[int, int]`: Empty where numbers stand as they are: names are missing, or are the same in the same order,
        or all are other words than the model's for as many classes.

    Raises:
        ValueError: If the model knows only some of the names, or none and has another number of classes.
    """
    if not names or not has_names(config.id2label) or are_same_classes(names, config.id2label):
        return {}
    unknown = [name for name in names if name not in config.label2id]
    if not unknown:
        return {index: config.label2id[name] for index, name in enumerate(names)}
    if len(unknown) == len(names) == config.num_labels:
        logger.warning(
            f"The dataset names its classes otherwise than the model ({names[0]!r} and {config.id2label[0]!r}, for "
            "example). They are taken to be in the same order."
        )
        return {}
    some = ", ".join(map(repr, unknown[:3])) + (", …" if len(unknown) > 3 else "")
    raise ValueError(
        f"The dataset has {len(names)} classes, of which the model with its {config.num_labels} does not know {some}. "
        "Give the same classes the same names, or use images of the model's classes."
    )
