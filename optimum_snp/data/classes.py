"""Which class of a model each class of a data set is: by name, never by order."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import Any

from .names import has_names, imagenet_classes, imagenet_ids, imagenet_names, normalised, numbers_of, synonyms


# What a user says of classes whose names differ: the data set's name, or number, to the model's.
LabelMap = Mapping[str | int, str | int]

_SHOWN = 3


def number_names(config: Any) -> None:
    """Writes the `label2id` that follows from a config's `id2label`: it is often missing, old or of another type."""
    if config.id2label:
        config.label2id = {name: int(number) for number, name in config.id2label.items()}


class ModelClasses:
    """The classes of a model, by number.

    Args:
        names (`Sequence[str]`):
            Their names.

    Attributes:
        names (`tuple[str, ...]`): The same.
        named (`bool`): Whether they are more than the `LABEL_0`, `LABEL_1`, … that transformers gives.
    """

    def __init__(self, names: Sequence[str]):
        self.names = tuple(map(str, names))
        self.named = has_names(dict(enumerate(self.names)))
        self._exact = _positions([[name] for name in self.names])
        self._whole = _positions([[normalised(name)] for name in self.names])
        self._others = _positions([self._other_names(number) for number in range(len(self.names))])

    @classmethod
    def of(cls, config: Any) -> "ModelClasses":
        """Those of a config, by its `id2label` alone: `label2id` is often missing, old or of another type.

        Raises:
            ValueError: If `id2label` does not count from 0.
        """
        id2label = {int(number): name for number, name in (config.id2label or {}).items()}
        if sorted(id2label) != list(range(len(id2label))):
            raise ValueError(
                f"The id2label of the model must have the numbers from 0 to {len(id2label) - 1}, got "
                f"{', '.join(map(str, sorted(id2label)[:10]))}. Mend model.config.id2label."
            )
        return cls([id2label[number] for number in range(len(id2label))])

    def __len__(self) -> int:
        return len(self.names)

    def name(self, config: Any) -> None:
        """Writes the names into a config, and the numbers by name as they follow from them."""
        config.id2label = dict(enumerate(self.names))
        number_names(config)

    def match(self, names: Sequence[str], label_map: LabelMap | None = None) -> list[int]:
        """The model's number of each class of a data set.

        Names are compared as they are, then in their normal form, then by ImageNet's synonyms and WordNet ids. Names
        that are all numbers of the model's classes are these numbers. Where the model has no names, as many classes
        are its own in the order of the data set.

        Args:
            names (`Sequence[str]`):
                All classes of the data set, in the order of its numbers.
            label_map (`LabelMap`, *optional*):
                Goes first: names (or numbers) of the data set to those of the model.

        Raises:
            ValueError: If a class is none of the model's, or could be several, or two are the same.
        """
        names = list(map(str, names))
        given = {position: self._mapped(name, label_map) for position, name in enumerate(names)}
        given = {position: number for position, number in given.items() if number is not None}
        rest = {position: name for position, name in enumerate(names) if position not in given}
        numbers = self._match_all(rest) if rest else {}
        return [given[position] if position in given else numbers[position] for position in range(len(names))]

    def number_of(self, name: str | int, said_by: str = "label_map") -> int:
        """The number of a class by its own name or number, as a `label_map` says it, or another argument.

        Raises:
            ValueError: If there is none, or several of this name.
        """
        if isinstance(name, int) and not isinstance(name, bool):
            found = {name} if 0 <= name < len(self) else set()
        else:
            found = self._exact.get(str(name)) or self._whole.get(normalised(name)) or set()
            number = numbers_of([name])
            if not found and number and number[0] < len(self):
                found = {number[0]}
        if len(found) != 1:
            problem = "is no class" if not found else f"is the name of {len(found)} classes"
            raise ValueError(
                f"{said_by} names {name!r}, which {problem} of the model. Its classes are {_some(self.names)}, and "
                f"numbers from 0 to {len(self) - 1} name them, too."
            )
        return next(iter(found))

    def numbers_of_some(self, names: Sequence[str | int]) -> list[int]:
        """The numbers of the classes that a model is to keep, by their names or numbers.

        Raises:
            TypeError: If they are no list.
            ValueError: If one is no class, or is named twice, or they are fewer than two.
        """
        if isinstance(names, (str, int, Set)):  # a set has no order, and the logits have that of the names
            raise TypeError(f"classes is a list of names or numbers of the model's classes, got {names!r}.")
        numbers = [self.number_of(name, "classes") for name in names]
        twice = [name for name, number in zip(names, numbers, strict=True) if numbers.count(number) > 1]
        if twice:
            raise ValueError(f"classes names {self.names[numbers[names.index(twice[0])]]!r} more than once.")
        if len(numbers) < 2:
            raise ValueError(f"classes names {len(numbers)} of the model's classes; a classifier needs two or more.")
        return numbers

    def _mapped(self, name: str | int, label_map: LabelMap | None) -> int | None:
        if not label_map:
            return None
        if name in label_map:
            return self.number_of(label_map[name])
        same = [value for key, value in label_map.items() if normalised(key) == normalised(name)]
        return self.number_of(same[0]) if len(same) == 1 else None

    def _match_all(self, names: dict[int, str]) -> dict[int, int]:
        candidates = {position: self._candidates(name) for position, name in names.items()}
        if not any(candidates.values()):
            numbers = numbers_of(names.values())
            if numbers is not None and max(numbers) < len(self):
                candidates = {position: {number} for position, number in zip(names, numbers, strict=True)}
            elif numbers is None and not self.named and [*names] == [*range(len(self))]:
                candidates = {position: {position} for position in names}
        _eliminate(candidates)
        self._check(names, candidates)
        return {position: next(iter(found)) for position, found in candidates.items()}

    def _candidates(self, name: str) -> set[int]:
        """The model's classes that could be meant, by the strictest comparison that finds one."""
        text = normalised(name)
        found = self._exact.get(name) or self._whole.get(text)
        if not self.named:  # of ImageNet it is by the data set's ids alone
            return set(found or self._others.get(text, ()))
        ids = imagenet_ids().get(text, frozenset())
        if not found and len(ids) == 1:  # ImageNet tells which class it is: by its id, then by its whole name
            (wordnet_id,) = ids
            found = self._others.get(wordnet_id) or self._whole.get(normalised(imagenet_classes()[wordnet_id]))
        if found:
            return set(found)
        texts = {text}.union(*(imagenet_names(wordnet_id) | {wordnet_id} for wordnet_id in ids))
        return set().union(*(self._others.get(text, set()) for text in texts))

    def _other_names(self, number: int) -> frozenset[str]:
        """By what else a class may be called: ImageNet's names, where it is one of its classes."""
        if self._is_imagenet():
            wordnet_id = [*imagenet_classes()][number]
            own = imagenet_names(wordnet_id) | synonyms(self.names[number]) if self.named else frozenset()
            return own | {wordnet_id}
        ids = imagenet_ids().get(normalised(self.names[number]), frozenset())
        own = frozenset() if len(ids) != 1 else ids | imagenet_names(*ids)
        return own | {normalised(self.names[number])}

    def _is_imagenet(self) -> bool:
        """Whether they are ImageNet's 1,000 classes in the order of their numbers, named or not."""
        if not hasattr(self, "_in_order"):
            self._in_order = len(self) == len(imagenet_classes()) and (
                not self.named
                or all(
                    synonyms(name) & (imagenet_names(wordnet_id) | {wordnet_id})
                    for name, wordnet_id in zip(self.names, imagenet_classes(), strict=True)
                )
            )
        return self._in_order

    def _check(self, names: dict[int, str], candidates: dict[int, set[int]]) -> None:
        unknown = [name for position, name in names.items() if not candidates[position]]
        example = f"{unknown[0]!r}: {self.names[0]!r}" if unknown else ""
        remedy = f"Say which is which with label_map={{{example}, …}}: its names to names or numbers of the model."
        if unknown and not self.named:
            raise ValueError(
                f"The dataset has {len(names)} classes, {_some(names.values())}, and the model has {len(self)} "
                f"without names, so that nothing tells which is which. {remedy}"
            )
        if unknown:
            raise ValueError(
                f"The dataset has {len(names)} classes, of which the model with its {len(self)} does not know "
                f"{_some(unknown)}. The model's are {_some(self.names)}. {remedy}"
            )
        for position, found in candidates.items():
            if len(found) > 1:
                several = " and ".join(f"{number} ({self.names[number]!r})" for number in sorted(found)[:_SHOWN])
                raise ValueError(
                    f"The class {names[position]!r} of the dataset could be the model's {several}. Say which with "
                    f"label_map={{{names[position]!r}: {min(found)}}}, for example."
                )
        counts = Counter(next(iter(found)) for found in candidates.values())
        number, count = counts.most_common(1)[0]
        if count > 1:
            same = [name for position, name in names.items() if candidates[position] == {number}]
            raise ValueError(
                f"The classes {_some(same)} of the dataset would all be the model's {self.names[number]!r}. If they "
                f"are, say so with label_map={{{same[0]!r}: {self.names[number]!r}, …}}; else give them other names."
            )


def _positions(texts: Sequence[Any]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for number, names in enumerate(texts):
        for name in names:
            found.setdefault(name, set()).add(number)
    return found


def _eliminate(candidates: dict[int, set[int]]) -> None:
    """Takes classes that are found from those that could be several: different classes of a data set are different."""
    while True:
        certain = {next(iter(found)) for found in candidates.values() if len(found) == 1}
        open_ones = [found for found in candidates.values() if len(found) > 1 and found & certain]
        if not open_ones:
            return
        for found in open_ones:
            found -= certain


def _some(names: Any) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")
