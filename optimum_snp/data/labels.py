"""What a label is: a class, a set of classes, or numbers, as the model's `problem_type` says."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from .classes import LabelMap, ModelClasses
from .errors import ItemError
from .names import normalised, numbers_of


SINGLE_LABEL, MULTI_LABEL, REGRESSION = PROBLEM_TYPES = (
    "single_label_classification",
    "multi_label_classification",
    "regression",
)


# How sure it is that labels count the names that a data set has: they come as they are; or a user's code has handled
# them, and each can be compared with what it was before; or it cannot.
CERTAIN, CHECKED, DOUBTFUL = "certain", "checked", "doubtful"


def problem_type(config: Any) -> str:
    """The problem that a classifier solves: that of its config, else one class of several, or one number.

    Raises:
        ValueError: If the config names another.
    """
    named = getattr(config, "problem_type", None)
    if named is None:
        return REGRESSION if config.num_labels == 1 else SINGLE_LABEL
    if named not in PROBLEM_TYPES:
        raise ValueError(f"problem_type must be one of {', '.join(map(repr, PROBLEM_TYPES))}, got {named!r}.")
    return named


def predicts_one_class(config: Any) -> bool:
    """Whether logits, if a model has some, are those of a softmax over several classes.

    Raises:
        ValueError: As `problem_type`.
    """
    return config.num_labels > 1 and problem_type(config) == SINGLE_LABEL


class LabelReader:
    """Reads the labels of one data set for one model.

    Args:
        classes ([`ModelClasses`]):
            Of the model.
        problem (`str`):
            One of `PROBLEM_TYPES`.
        names (`Sequence[str]`, *optional*):
            The data set's own names of its classes, where its labels count them. Without, numbers are the model's.
        label_map (`LabelMap`, *optional*):
            See [`ModelClasses.match`].
        certainty (`str`, *optional*, defaults to `CERTAIN`):
            Whether the labels surely count `names`.
        are_lists (`bool`, *optional*, defaults to `False`):
            Whether a label is a list of classes rather than a list with a 0 or 1 for each class.

    Raises:
        ValueError: If classes cannot be matched, or the model wants no classes.
    """

    def __init__(
        self,
        classes: ModelClasses,
        problem: str,
        names: Sequence[str] | None = None,
        label_map: LabelMap | None = None,
        certainty: str = CERTAIN,
        are_lists: bool = False,
    ):
        if problem == REGRESSION and (names or label_map):
            raise ValueError(
                "The model predicts numbers (problem_type 'regression'), but the dataset's labels are classes. Name a "
                "column of numbers with label_column, or set problem_type in the model's config."
            )
        self.classes = classes
        self.problem = problem
        self.names = list(names) if names else None
        self.label_map = label_map
        self.certainty = certainty
        self.are_lists = are_lists
        self.numbers: list[int] | None = None
        self._numbers_of_names: dict[str, int] = {}
        if self.names:
            try:
                self.numbers = classes.match(self.names, label_map)
            except ValueError:
                if certainty == CERTAIN:
                    raise
        if label_map:
            for name in label_map.values():
                classes.number_of(name)  # a name that is no class is told at once

    @property
    def learned_names(self) -> dict[int, str]:
        """What the data set calls the model's classes, by their numbers; nothing where it numbers them, too."""
        if self.numbers is None or self.certainty == DOUBTFUL or numbers_of(self.names) is not None:
            return {}
        learned = dict(zip(self.numbers, self.names, strict=True))
        return learned if len(learned) == len(self.names) else {}

    def read(self, label: Any, place: str, original: Any = None) -> int | float | torch.Tensor:
        """One label as the model's loss takes it.

        Args:
            label:
                As it is in the data set.
            place (`str`):
                Which item it is, for errors, such as `"3 of the dataset"`.
            original (*optional*):
                The label before a user's code handled the item, where it is known; `names` are then of that.

        Returns:
            `int`: The class; of `multi_label_classification` a `torch.Tensor` `[num_labels]` of 0 and 1; of
            `regression` a `float` or, for several numbers, a `torch.Tensor`.

        Raises:
            ItemError: If it is none.
        """
        label = _plain(label)
        if label is None or (isinstance(label, float) and math.isnan(label)):
            raise ItemError(
                f"Item {place} has no label{'' if label is None else ' (NaN)'}; training and evaluation need one."
            )
        if self.problem == REGRESSION:
            return self._values(label, place)
        if self.problem == MULTI_LABEL:
            return self._set_of_classes(label, place)
        if isinstance(label, list) and len(label) == 1 and _is_integer(label[0]):
            label = label[0]  # an array of one class
        if isinstance(label, list) or not (isinstance(label, str) or _is_integer(label)):
            raise ItemError(
                f"Item {place} has the label {_short(label)}; the model tells one class of {len(self.classes)}, and "
                "its label is that class: an integer or a name. For several classes, or numbers, set problem_type to "
                "'multi_label_classification' or 'regression' in the model's config."
            )
        return self._class(label, place, _plain(original))

    def _class(self, label: str | int, place: str, original: int | None = None) -> int:
        if isinstance(label, str):
            return self._class_of_name(label, place)
        if isinstance(original, str):  # a user's code made a number of a name
            number = self._class_of_name(original, place)
            if label != number:
                raise ItemError(self._untold(label, place, f"is {original!r}"))
        elif self.names is None:
            number = self._own_number(label)
        else:
            number = self._class_of_number(label, place, original)
        if not 0 <= number < len(self.classes):
            raise ItemError(f"Item {place} has label {number}; the model has {len(self.classes)} labels.")
        return number

    def _class_of_number(self, label: int, place: str, original: int | None) -> int:
        """Of a label that counts the data set's names, or did so before a user's code handled it."""
        counted = label if original is None else original
        if not 0 <= counted < len(self.names):
            problem = "no label (-1)" if counted == -1 else f"label {counted} of {len(self.names)} classes"
            raise ItemError(f"Item {place} has {problem}; training and evaluation need one.")
        number = None if self.numbers is None else self.numbers[counted]
        # Left as it was, or made the model's: both mean the same class.
        if self.certainty != CERTAIN and (number is None or label not in (original, number)):
            raise ItemError(self._untold(label, place, f"is class {counted}, {self.names[counted]!r}, of the dataset"))
        return number

    def _untold(self, label: int, place: str, before: str) -> str:
        return (
            f"Item {place} has label {label}, and code of yours handles a dataset by which it {before}: whose number "
            "it is cannot be told. Return names of classes instead of numbers, or give your dataset an attribute "
            "`classes`, their names in the order of its numbers (a stream: map(…, features=…))."
        )

    def _own_number(self, label: int) -> int:
        """Of a label that nothing names: the model's number, unless `label_map` says otherwise."""
        for key in (label, str(label)):
            if self.label_map and key in self.label_map:
                return self.classes.number_of(self.label_map[key])
        return label

    def _class_of_name(self, name: str, place: str) -> int:
        if name not in self._numbers_of_names:
            try:
                self._numbers_of_names[name] = self._match_name(name)
            except ValueError as error:
                raise ItemError(f"Item {place} has label {name!r}. {error}") from error
        return self._numbers_of_names[name]

    def _match_name(self, name: str) -> int:
        if self.numbers is not None:  # among its fellows, which tell ambiguous names apart
            same = [position for position, other in enumerate(self.names) if normalised(other) == normalised(name)]
            if len(same) == 1:
                return self.numbers[same[0]]
        return self.classes.match([name], self.label_map)[0]

    def _set_of_classes(self, label: Any, place: str) -> torch.Tensor:
        count = len(self.classes)
        hot = torch.zeros(count)
        if isinstance(label, list) and all(isinstance(name, str) for name in label):
            hot[[self._class(name, place) for name in label]] = 1.0
            return hot
        if isinstance(label, list) and self.are_lists and all(map(_is_integer, label)):
            hot[[self._class(number, place) for number in label]] = 1.0
            return hot
        if not (isinstance(label, list) and len(label) == count and all(value in (0, 1) for value in label)):
            raise ItemError(
                f"Item {place} has the label {_short(label)}; the model tells which of {count} classes an image has, "
                f"and its label is a list of {count} zeros and ones, or a list of names. For one class per image set "
                "problem_type to 'single_label_classification' in the model's config."
            )
        order = [self._class(number, place) for number in range(count)] if self.names else range(count)
        hot[list(order)] = torch.tensor(label, dtype=torch.float32)
        return hot

    def _values(self, label: Any, place: str) -> float | torch.Tensor:
        values = label if isinstance(label, list) else [label]
        is_number = [
            isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) for value in values
        ]
        if not all(is_number) or len(values) != len(self.classes):
            wanted = "a number" if len(self.classes) == 1 else f"a list of {len(self.classes)} numbers"
            raise ItemError(
                f"Item {place} has the label {_short(label)}; the model predicts {wanted} (problem_type 'regression')."
            )
        return float(values[0]) if len(values) == 1 else torch.tensor(values, dtype=torch.float32)


def _plain(label: Any) -> Any:
    """Of Python's own types: a number, a text, `None`, or a list of these."""
    if isinstance(label, (torch.Tensor, np.ndarray, np.generic)):
        label = label.tolist()
    if isinstance(label, (list, tuple)):
        return [_plain(value) for value in label]
    return label


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _short(label: Any) -> str:
    text = repr(label)
    return text if len(text) <= 60 else f"{text[:57]}…"
