"""Hostile files, drawn by seed: values of JSON replaced, removed or nested; bytes of any file changed or cut off."""

import copy
import json
import random


_NUMBERS = [-1, 0, 1, 0.5, 2**31, 10**9, 3 * 10**8, 10**18, -(10**18), 1e308, float("nan"), float("inf")]
_TEXTS = ["", "a", "../../etc/passwd", "{{ 7 * 7 }}", "<script>alert(1)</script>", "x" * 100_000]
_TEXTS += ["!!python/object/apply:os.system ['true']"]
_NESTED = [[], {}, [[]], [None], {"a": 1}, [[[[[]]]]], list(range(1000))]
HOSTILE = [None, True, *_NUMBERS, *_TEXTS, *_NESTED]


def mutate(content: bytes, generator: random.Random) -> bytes:
    """Another content of a file."""
    ways = [_cut, _flip, _insert, _replace_all]
    try:
        values = json.loads(content)
    except (UnicodeDecodeError, ValueError):
        return generator.choice([*ways, _header])(content, generator)
    if generator.random() < 0.15:
        return generator.choice(ways)(content, generator)
    for _ in range(generator.choice([1, 1, 1, 2, 3])):
        _change_value(values, generator)
    return json.dumps(values).encode()


def _cut(content, generator):
    return content[: generator.randrange(len(content))]


def _flip(content, generator):
    changed = bytearray(content)
    for _ in range(generator.choice([1, 1, 10, 100])):
        changed[generator.randrange(len(changed))] = generator.randrange(256)
    return bytes(changed)


def _insert(content, generator):
    place = generator.randrange(len(content))
    return content[:place] + generator.randbytes(generator.choice([1, 8, 1000])) + content[place:]


def _replace_all(_content, generator):
    return generator.choice(
        [
            b"",
            b"[]",
            b"null",
            b"{}",
            b'"a"',
            b"[" * 100_000,
            b"\xff\xfe\x00",
            b"version https://git-lfs.github.com/spec/v1\n",
        ]
    )


def _header(content, generator):
    """Of a file of safetensors: another length, or the JSON of the header changed with the length to match."""
    length = int.from_bytes(content[:8], "little")
    if generator.random() < 0.3:
        return generator.choice([0, 1, 2**63, 2**64 - 1, len(content)]).to_bytes(8, "little") + content[8:]
    values = json.loads(content[8 : 8 + length])
    _change_value(values, generator)
    header = json.dumps(values).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def _change_value(values, generator):
    """Walks to a random place, the deeper the rarer, and changes it."""
    place = values
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = generator.choice(keys)
        child = place[key]
        if isinstance(child, (dict, list)) and child and generator.random() < 0.75:
            place = child
            continue
        way = generator.random()
        if way < 0.15:
            del place[key]
        elif way < 0.25 and isinstance(place, dict):
            place[generator.choice(["a", "x" * 1000, "__class__"])] = place.pop(key)
        elif way < 0.35 and isinstance(child, (int, float)) and not isinstance(child, bool):
            place[key] = child * generator.choice([-1, 2, 1000, 10**7]) + generator.choice([0, 1])
        else:
            place[key] = copy.deepcopy(generator.choice(HOSTILE))  # a later change may go inside
        return
