"""What the app does, without the page: one model, some pictures and a budget make a smaller model and what to show."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..comparison import compare
from ..configuration import SNPConfig
from ..data import load_image_folder
from ..models import has_classifier
from ..pruner import SNPPruner
from ..publishing.report import write_report
from ..structure import reads_sounds


DENSE, PRUNED = "dense", "pruned"
NUM_RUNS = 15  # timed passes: people wait
NUM_SHOWN = 3  # pictures with attention maps


@dataclass
class Outcome:
    """What the page shows.

    Attributes:
        comparison (`str`): A table in Markdown of both models.
        plan (`str`): The sizes of every block.
        pictures (`list[str]`): Files: attention maps before and after, kept sizes, spectra.
        folder (`str`): Of the pruned model.
        archive (`str`): The same as a zip file.
    """

    comparison: str
    plan: str
    pictures: list[str]
    folder: str
    archive: str


def prune_and_compare(
    model: str,
    images: Sequence[str | Path] | str | Path,
    share: float,
    *,
    method: str = "projection",
    layout: str = "snp",
    labelled: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Prunes a model to a share of its FLOPs and compares it with what it was.

    Args:
        model (`str`):
            Folder, Hub id or short name.
        images (`Sequence` or `str` or `Path`):
            Files of pictures, or a folder of them.
        share (`float`):
            Of the FLOPs that may remain, in (0, 1].
        method, layout (`str`, *optional*):
            As in [`SNPConfig`].
        labelled (`bool`, *optional*, defaults to `False`):
            Whether the folder has a subfolder per class, so that accuracies are told.
        tell (`Callable[[str], None]`, *optional*):
            Hears what is being done.

    Raises:
        ValueError: If there are no pictures, or as the verbs of [`SNPPruner`] do.
    """
    if not images:
        raise ValueError("Choose some pictures, or name a folder: the model is calibrated on them.")
    work = Path(tempfile.mkdtemp(prefix="optimum-snp-app-"))
    tell("Loading the model")
    pruner = SNPPruner.from_pretrained(model)
    if reads_sounds(pruner.model.config):
        raise ValueError(f"{model} reads sounds; this page shows pictures. Prune it in Python: docs/families.md.")
    dataset = load_image_folder(_one_folder(images, work), "train")
    config = SNPConfig(target_flops=share, method=method, layout=layout)
    tell("Calibrating")
    pruner.calibrate(dataset, num_samples=min(len(dataset), 256))
    tell("Pruning")
    dense_record = pruner.record
    pruner.prune(config)
    folder = work / "model"
    pruner.save_pretrained(folder)
    tell("Measuring")
    evaluated = dataset if has_classifier(pruner.model) else None
    comparison = compare(
        {DENSE: model, PRUNED: folder},
        evaluated,
        labelled=labelled,
        backends=["eager"],
        num_runs=NUM_RUNS,
        dataset_name="your pictures",
    )
    tell("Drawing")
    report = write_report(
        work / "report",
        {DENSE: dense_record, PRUNED: pruner.record},
        original=DENSE,
        images=dataset,
        num_images=min(len(dataset), NUM_SHOWN),
    )
    pictures = sorted(report["pictures"], key=lambda path: "attention_maps" not in path)
    archive = shutil.make_archive(str(work / "pruned-model"), "zip", folder)
    return Outcome(str(comparison), str(pruner.pruning_plan), pictures, str(folder), archive)


def _one_folder(images: Sequence[str | Path] | str | Path, work: Path) -> Path:
    """A folder with the pictures, whatever they were given as."""
    if isinstance(images, (str, Path)):
        return Path(images).expanduser()
    folder = work / "pictures"
    folder.mkdir()
    for number, file in enumerate(images):
        shutil.copy(file, folder / f"{number}-{Path(file).name}")
    return folder
