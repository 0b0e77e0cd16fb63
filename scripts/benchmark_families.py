"""Accuracy of small classifiers of a family before and after pruning, without any training after it.

    python scripts/benchmark_families.py beit --output families
    python scripts/benchmark_families.py ast --sounds /path/to/klettres --output families

`beit` trains a BeitForImageClassification (4 blocks, width 64, a table of relative positions in every block) on 4,000
handwritten digits. `ast` trains an ASTForAudioClassification (6 blocks, width 96, 45 patches that overlap) on
recordings of letters and syllables, to tell by which of the speakers, one per language, each was spoken. They are
those of KLettres: `apt-get download klettres-data`, then `dpkg-deb -x` it and name its folder `usr/share/klettres`;
reading needs the packages `soundfile` and `scipy`. A quarter of each speaker's recordings is held out, and no more
than 100 are taken of one.

The trained model is kept in the output folder and used again. It is pruned by all methods to shares of its FLOPs on
unlabelled inputs of the training part, and measured on what was held out.

Writes `beit.md` or `ast.md` (the table, also printed) and the same as JSON.
"""

import argparse
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any

import torch
import transformers
from digits import load_digits
from reporting import format_tables, write_results
from small_training import train
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.configuration import METHODS
from optimum_snp.demo.data import AugmentedDigits
from optimum_snp.demo.data import load_digits as load_demo_digits
from optimum_snp.structure.costs import count_macs


logger = logging.getLogger("benchmark_families")

SHARES = (0.75, 0.5)
SAMPLING_RATE = 16_000
MOST_PER_SPEAKER = 100
PACKAGES = ("optimum-snp", "torch", "transformers", "mlxtend", "soundfile", "scipy")


@dataclass
class Task:
    """A model to train and what it is trained and measured on.

    Attributes:
        build (`Callable`): Gives the untrained model.
        training (`Dataset`): Items as the model reads them, with `labels`, changed at random.
        calibration, test (`list`): What [`SNPPruner`] reads: unlabelled inputs, and labelled ones that were held out.
        epochs (`int`): Over the training part.
        processor (*optional*): What prepares them.
    """

    build: Callable[[], transformers.PreTrainedModel]
    training: Dataset
    calibration: Any
    test: list
    epochs: int
    processor: Any = None


def beit_task() -> Task:
    """Handwritten digits."""
    training, test = load_digits()
    config = transformers.BeitConfig(
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        image_size=32,
        patch_size=8,
        use_relative_position_bias=True,
        layer_scale_init_value=0.5,
        initializer_range=0.1,
        drop_path_rate=0.0,
        num_labels=10,
    )
    return Task(
        build=lambda: transformers.BeitForImageClassification(config),
        training=AugmentedDigits(load_demo_digits(seed=0)[0]),
        calibration=training.pixels,
        test=list(zip(test.pixels, test.labels.tolist(), strict=True)),
        epochs=15,
    )


class ShiftedSounds(Dataset):
    """Spectrograms with labels, each beginning a little earlier or later, as often as one likes."""

    def __init__(self, spectrograms: torch.Tensor, labels: list[int]):
        self.spectrograms, self.labels = spectrograms, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        frames = int(torch.randint(-8, 9, ()))
        return {"input_values": self.spectrograms[index].roll(frames, dims=0), "labels": self.labels[index]}


def ast_task(folder: Path) -> Task:
    """Recordings of letters and syllables by the speakers of KLettres."""
    extractor = transformers.ASTFeatureExtractor(num_mel_bins=64, max_length=96, mean=-6.0, std=4.0)
    speakers = sorted(path.name for path in folder.iterdir() if list(path.glob("*/*.ogg")))
    if not speakers:
        raise SystemExit(f"{folder} has no recordings, LANGUAGE/alpha/*.ogg and LANGUAGE/syllab/*.ogg.")
    training, test = [], []
    for speaker in tqdm(speakers, desc="Reading", unit="speaker"):
        files = sorted((folder / speaker).glob("*/*.ogg"))
        random.Random(0).shuffle(files)
        sounds = [{"audio": read_sound(file), "label": speaker} for file in files[:MOST_PER_SPEAKER]]
        test += sounds[::4]
        training += [sound for index, sound in enumerate(sounds) if index % 4]
    logger.info(f"{len(training)} recordings to train on, {len(test)} to test on, by {len(speakers)} speakers")
    spectrograms = torch.cat(
        [
            extractor(sound["audio"]["array"], sampling_rate=SAMPLING_RATE, return_tensors="pt")["input_values"]
            for sound in tqdm(training, desc="Extracting", unit="recording")
        ]
    )
    config = transformers.ASTConfig(
        hidden_size=96,
        num_hidden_layers=6,
        num_attention_heads=6,
        intermediate_size=384,
        num_mel_bins=64,
        max_length=96,
        id2label=dict(enumerate(speakers)),
        label2id={speaker: index for index, speaker in enumerate(speakers)},
    )
    return Task(
        build=lambda: transformers.ASTForAudioClassification(config),
        training=ShiftedSounds(spectrograms, [speakers.index(sound["label"]) for sound in training]),
        calibration=training,
        test=test,
        epochs=15,
        processor=extractor,
    )


def read_sound(path: Path) -> dict[str, Any]:
    """One channel at the rate that the model reads, as `datasets` has it; silence before and behind it is cut off."""
    import soundfile
    from scipy.signal import resample_poly

    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    samples, common = samples.mean(axis=1), gcd(rate, SAMPLING_RATE)
    samples = resample_poly(samples, SAMPLING_RATE // common, rate // common).astype("float32")
    (loud,) = (abs(samples) > 0.02 * abs(samples).max()).nonzero()
    return {"array": samples[loud[0] : loud[-1] + 1], "sampling_rate": SAMPLING_RATE}


def main() -> None:
    """Trains, prunes, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("beit", "ast"))
    parser.add_argument("--output", type=Path, required=True, help="folder for the model and the figures")
    parser.add_argument("--sounds", type=Path, help="the folder of KLettres; for ast")
    parser.add_argument("--num-calibration", type=int, default=128, help="calibration inputs")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.model == "ast" and args.sounds is None:
        parser.error("ast needs --sounds, the folder of KLettres")
    logging.basicConfig(level=logging.INFO)

    task = beit_task() if args.model == "beit" else ast_task(args.sounds)
    folder = args.output / f"dense-{args.model}"
    if not folder.exists():
        torch.manual_seed(args.seed)
        model = task.build()
        model.train()
        train(
            model.parameters(),
            task.training,
            lambda batch: model(**batch).loss,
            epochs=task.epochs,
            batch_size=32,
            seed=args.seed,
        )
        model.save_pretrained(folder)
        if task.processor is not None:
            task.processor.save_pretrained(folder)
    pruner = SNPPruner.from_pretrained(folder)
    dense_accuracy, dense_macs = pruner.evaluate(task.test)["accuracy"], count_macs(pruner.model)
    pruner.calibrate(task.calibration, args.num_calibration)
    rows = []
    for share in SHARES:
        results = {}
        for method in METHODS:
            pruned = pruner.copy()
            pruned.prune(SNPConfig(method=method, target_flops=share))
            results[method] = {"accuracy": pruned.evaluate(task.test)["accuracy"], "macs": count_macs(pruned.model)}
            logger.info(f"{share:.0%}, {method}: {results[method]['accuracy']:.1%}")
        rows.append({"name": f"to {share:.0%} of the FLOPs", "results": results})
    report = {"model": args.model, "dense_accuracy": dense_accuracy, "dense_macs": dense_macs, "rows": rows}
    table = format_tables([report], METHODS)
    write_results(args, args.model, table, report, PACKAGES)
    print(table)


if __name__ == "__main__":
    main()
