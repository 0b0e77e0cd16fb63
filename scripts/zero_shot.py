"""Zero-shot accuracy and angles of image embeddings of small models of images and texts, before and after pruning.

Trains a small CLIP and a small SigLIP on 4,000 handwritten digits with one text per class, each by the loss of its
kind over all classes, and keeps them in a folder. Then prunes the vision towers by all methods to shares of their
FLOPs, without any training after it, and measures on 1,000 other digits: the accuracy by the nearest text, and the
mean cosine between the embeddings of an image before and after.

    python scripts/zero_shot.py --folder /path/for/models
"""

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from digits import Images, choose, load_digits
from torch import nn

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.configuration import METHODS
from optimum_snp.metrics.zero_shot import embed_images
from optimum_snp.structure.costs import count_macs


CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHARES = (0.75, 0.5)
VISION = {
    "hidden_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "intermediate_size": 384,
    "image_size": 32,
    "patch_size": 4,
}
TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 16,
    "max_position_embeddings": 4,
    "bos_token_id": 0,
    "eos_token_id": 15,
    "pad_token_id": 14,
}


def class_tokens() -> dict[str, torch.Tensor]:
    """One text for each class: its own word between beginning and end."""
    ids = torch.tensor([[0, 1 + index, 15] for index in range(len(CLASSES))])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def build(class_name: str) -> nn.Module:
    """An untrained model."""
    torch.manual_seed(0)
    if class_name == "CLIPModel":
        vision = {**VISION, "projection_dim": 64, "hidden_act": "quick_gelu"}
        config = transformers.CLIPConfig(vision_config=vision, text_config=TEXT, projection_dim=64)
    else:
        text = {**TEXT, "projection_size": VISION["hidden_size"]}
        config = transformers.SiglipConfig(vision_config=VISION, text_config=text)
    model = getattr(transformers, class_name)(config)
    if hasattr(model, "logit_bias"):  # transformers starts them at zero; here at the odds of one class among ten
        nn.init.constant_(model.logit_scale, math.log(10))
        nn.init.constant_(model.logit_bias, -math.log(len(CLASSES) - 1))
    return model


def train(model: nn.Module, images: Images, epochs: int, batch_size: int = 100) -> None:
    """Draws images to the text of their class: by cross-entropy over the classes, or each pair alone (SigLIP)."""
    steps = epochs * (len(images.labels) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    generator, tokens = torch.Generator().manual_seed(0), class_tokens()
    model.train()
    for epoch in range(epochs):
        losses = []
        for chosen in torch.randperm(len(images.labels), generator=generator).split(batch_size):
            labels = images.labels[chosen]
            logits = model(pixel_values=images.pixels[chosen], **tokens).logits_per_image
            if hasattr(model, "logit_bias"):
                pairs = 2 * F.one_hot(labels, len(CLASSES)) - 1
                loss = -F.logsigmoid(pairs * logits).sum(dim=-1).mean()
            else:
                loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {sum(losses) / len(losses):.3f}", flush=True)


@torch.inference_mode()
def embeddings_of(pruner: SNPPruner, images: Images) -> torch.Tensor:
    """Of length 1, `[images, size]`."""
    parts = [embed_images(pruner.model, pixels) for pixels in images.pixels.split(100)]
    return F.normalize(torch.cat(parts), dim=-1)


def measure(pruner: SNPPruner, images: Images) -> float:
    """Zero-shot accuracy."""
    pairs = [(pixels, int(label)) for pixels, label in zip(images.pixels, images.labels, strict=True)]
    return pruner.evaluate_zero_shot(pairs, CLASSES, class_tokens(), batch_size=100)["accuracy"]


def main() -> None:
    """Prints a table for docs/families.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the trained models")
    parser.add_argument("--classes", nargs="+", default=["CLIPModel", "SiglipModel"], help="of the models")
    parser.add_argument("--epochs", type=int, default=8, help="of training (default: %(default)s)")
    parser.add_argument("--num-calibration", type=int, default=128, help="images (default: %(default)s)")
    args = parser.parse_args()
    training, test = load_digits()
    calibration = choose(training, args.num_calibration, seed=0).pixels
    rows = []
    for class_name in args.classes:
        folder = args.folder / class_name
        if not folder.exists():
            model = build(class_name)
            train(model, training, args.epochs)
            model.eval().save_pretrained(folder)
        dense = SNPPruner.from_pretrained(folder)
        dense.calibrate(calibration, num_samples=len(calibration))
        expected = embeddings_of(dense, test)
        rows.append(f"| {class_name} | dense | | {measure(dense, test):.1%} | |")
        for share in SHARES:
            for method in METHODS:
                pruner = dense.copy()
                pruner.prune(SNPConfig(method=method, target_flops=share))
                cosine = (embeddings_of(pruner, test) * expected).sum(dim=-1).mean()
                spent = count_macs(pruner.model) / count_macs(dense.model)
                rows.append(f"| | {method} | {spent:.0%} | {measure(pruner, test):.1%} | {cosine:.3f} |")
                print(rows[-1], flush=True)
    print("| model | method | FLOPs left | zero-shot accuracy | cosine to the dense embedding |")
    print("|---|---|---:|---:|---:|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
