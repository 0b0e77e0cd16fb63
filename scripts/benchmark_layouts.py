"""What one size for all blocks costs: budgets with free sizes against those of plain checkpoints (layout="native").

On classifiers of real images, without any training. Each is a folder with `model/`, an ordinary
`ViTForImageClassification`, and `data.pt` with tensors of images as uint8: `calibration`, and `x` and their classes
`y` to test on. A third variant has the MLP sizes that a DINOv2 of transformers can have, whole multiples of the width.

    python scripts/benchmark_layouts.py FOLDER [FOLDER ...] --output layouts.json
"""

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.models import SNPModel, build_like


logger = logging.getLogger("benchmark_layouts")

FREE, NATIVE, WHOLE_RATIO = "free", "native", "native, whole mlp_ratio"


@dataclass
class Task:
    """A classifier and its images.

    Attributes:
        pruners: Of the dense model, calibrated, by variant.
        images, labels: To test on.
        log_probabilities: Of the dense model.
    """

    pruners: dict[str, SNPPruner]
    images: torch.Tensor
    labels: torch.Tensor
    log_probabilities: torch.Tensor


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.75, 0.5, 0.3], help="of the FLOPs that remain")
    parser.add_argument("--num-calibration-samples", type=int, default=128)
    parser.add_argument("--num-test-images", type=int, help="chosen at random (default: all)")
    parser.add_argument("--reconstruct", action="store_true", help="fit the blocks in sequence afterwards; takes long")
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    args = parser.parse_args()
    reports = []
    for folder in args.folders:
        task = load_task(folder, args.num_calibration_samples, args.num_test_images)
        report = {"task": folder.name, "dense_accuracy": accuracy(task.log_probabilities, task.labels), "rows": []}
        reports.append(report)
        logger.info(f"{folder.name}: dense {report['dense_accuracy']:.1%}")
        for share in args.shares:
            for variant in task.pruners:
                report["rows"].append(
                    {"share": share, "variant": variant, **measure(task, share, variant, args.reconstruct)}
                )
                logger.info(json.dumps(report["rows"][-1]))
                args.output.write_text(json.dumps(reports, indent=2) + "\n")


def load_task(folder: Path, num_samples: int, num_test_images: int | None) -> Task:
    data = torch.load(folder / "data.pt", weights_only=True)
    chosen = torch.randperm(len(data["x"]), generator=torch.Generator().manual_seed(0))[:num_test_images]
    data |= {name: data[name][chosen] for name in ("x", "y")}
    pruner = SNPPruner.from_pretrained(folder / "model")
    images = {name: pixel_values(data[name], pruner) for name in ("calibration", "x")}
    whole_ratio = SNPPruner(as_dinov2(pruner.model))
    for calibrated in (pruner, whole_ratio):
        calibrated.calibrate(images["calibration"], num_samples)
    pruners = {FREE: pruner, NATIVE: pruner, WHOLE_RATIO: whole_ratio}
    return Task(pruners, images["x"], data["y"], classify(pruner.model, images["x"]))


def pixel_values(images: torch.Tensor, pruner: SNPPruner) -> torch.Tensor:
    processor = pruner.image_processor
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    return (images.float() / 255 - mean) / std


@torch.inference_mode()
def classify(model: SNPModel, images: torch.Tensor) -> torch.Tensor:
    """Logarithms of the probabilities, `[images, classes]`."""
    return torch.cat([F.log_softmax(model(batch).logits, dim=-1) for batch in images.split(32)])


def accuracy(log_probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    return float((log_probabilities.argmax(-1) == labels).float().mean())


def measure(task: Task, share: float, variant: str, reconstruct: bool) -> dict:
    pruner, layout = task.pruners[variant].copy(), "snp" if variant == FREE else "native"
    plan = pruner.plan(SNPConfig(target_flops=share, layout=layout, reconstruction=reconstruct))
    log_probabilities = classify(pruner.prune(plan), task.images)
    blocks = [block.after for block in plan.blocks]
    return {
        "flops": plan.macs_after / plan.macs_before,
        "hidden_size": plan.widths[0].after,
        "blocks": blocks if variant == FREE else blocks[:1],
        "accuracy": accuracy(log_probabilities, task.labels),
        "agreement": accuracy(log_probabilities, task.log_probabilities.argmax(-1)),
        "kl": float(F.kl_div(log_probabilities, task.log_probabilities, reduction="batchmean", log_target=True)),
    }


def as_dinov2(model: SNPModel) -> SNPModel:
    """The same function as if it had been a DINOv2 classifier, which reads the mean of the patches, too: by zeros."""
    fields = model.config.to_dict() | {
        "source_model_type": "dinov2",
        "use_pooler": False,
        "classifier_pooling": "cls_mean",
        "interpolate_pos_encoding": True,
    }
    weights = model.state_dict()
    weights["classifier.weight"] = F.pad(weights["classifier.weight"], (0, model.config.hidden_size))
    return build_like(model, type(model), type(model.config).from_dict(fields), weights)


if __name__ == "__main__":
    main()
