"""Names of classes: when two spellings are one name, and what a name says by itself."""

import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path


# What may stand around a name and is no part of it. Signs such as + and < are: "<5" is another class than ">5".
_AROUND = " _.,;:!?'\"`()[]{}\u2018\u2019\u201c\u201d"

_IMAGENET = Path(__file__).with_name("imagenet_classes.tsv")

# Two classes of ImageNet have one name in WordNet. What data sets and torchvision call them to tell them apart.
_CRANES = {"n02012849": ("crane bird",), "n03126707": ("crane2", "construction crane", "crane machine")}


def normalised(name: str) -> str:
    """One form for all spellings of a name: case, blanks, underscores, hyphens and surrounding punctuation are one."""
    text = unicodedata.normalize("NFKC", str(name)).casefold()
    # Between words; a hyphen elsewhere is a sign: "-5" is no "5".
    spelled = re.sub(r"(?<=\w)(-+| -+ )(?=\w)", " ", re.sub(r"[\s_]+", " ", text))
    return spelled.strip(_AROUND) or text


def synonyms(name: str) -> frozenset[str]:
    """The normalised names that a comma-separated list is made of."""
    return frozenset(normalised(part) for part in str(name).split(",")) - {""}


def has_names(id2label: Mapping[int, str]) -> bool:
    """Whether labels are more than the numbers that transformers gives them where nobody named them."""
    return not all(re.fullmatch(r"LABEL_\d+", str(name)) for name in id2label.values())


def numbers_of(names: Iterable[str]) -> list[int] | None:
    """The numbers that these names are, or `None` where one of them is no whole number."""
    texts = [str(name).strip() for name in names]
    return [int(text) for text in texts] if texts and all(re.fullmatch(r"\d+", text) for text in texts) else None


@functools.cache
def imagenet_classes() -> dict[str, str]:
    """The 1,000 classes of ImageNet (ILSVRC-2012) in the order of their numbers: WordNet ids and names.

    From `imagenet_synsets.txt` and `imagenet_synset_to_lemma.txt` of timm 1.0.31; the names are WordNet's.
    """
    lines = _IMAGENET.read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines)


@functools.cache
def imagenet_ids() -> dict[str, frozenset[str]]:
    """For every normalised name of ImageNet, whole or one of its synonyms, the WordNet ids that have it."""
    found: dict[str, set[str]] = {}
    for wordnet_id, name in imagenet_classes().items():
        for text in (wordnet_id, normalised(name), *imagenet_names(wordnet_id)):
            found.setdefault(text, set()).add(wordnet_id)
    return {text: frozenset(ids) for text, ids in found.items()}


def imagenet_names(wordnet_id: str) -> frozenset[str]:
    """All normalised names of a class of ImageNet."""
    return synonyms(imagenet_classes()[wordnet_id]) | frozenset(_CRANES.get(wordnet_id, ()))
