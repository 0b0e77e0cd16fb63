"""Features of a small DINOv3 before and after pruning, without any training: pairs chosen by us and by others.

    python scripts/benchmark_rotary.py --output rotary

Trains a `DINOv3ViTModel` (4 blocks, width 64, 4 heads of 8 pairs, 2 registers) on the 4,000 handwritten digits of the
training part, by a linear head on the class token that is then thrown away. Calibration is on 64 of them without
labels. What is told of the 1,000 held-out digits: the accuracy of a k-NN (k = 10, cosine) over the features of 1,000
training digits by the same pruned model; that of a linear probe fitted once to features of the dense model; and how
far the features are from those of the dense model, relative to their spread.

Rows prune queries and keys alone by a share of their pairs, or queries and keys, values and MLP by a budget of FLOPs.
The width stays, so that one probe reads all features; nothing is reconstructed in sequence. `magnitude` keeps the
pairs with the longest rows of query and key weights; the other methods are those of the package. The dense model is
kept in the output folder and used again.

Writes `rotary.md` (the table, also printed) and `rotary.json`.
"""

import json
import logging
from typing import Any

import torch
import torch.nn.functional as F
from baselines.scores import l2_norm, prune_by_scores
from digits import Images, choose, load_digits
from reporting import collect_versions
from small_training import train, training_parser
from torch import nn
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.demo.data import AugmentedDigits
from optimum_snp.demo.data import load_digits as load_demo_digits
from optimum_snp.models import SNPModel
from optimum_snp.structure.costs import count_macs


logger = logging.getLogger("benchmark_rotary")

SHARES = (0.25, 0.5, 0.75)
BUDGETS = (0.75, 0.5)
METHODS = ("magnitude", "snp", "snp-refit", "projection")
NUM_NEIGHBOURS = 10
PACKAGES = ("optimum-snp", "torch", "transformers", "mlxtend")


def build_model() -> DINOv3ViTModel:
    """A small DINOv3 for digits of 32 pixels."""
    config = DINOv3ViTConfig(
        image_size=32,
        patch_size=4,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        num_register_tokens=2,
        initializer_range=0.1,
        layerscale_value=0.5,
        pos_embed_rescale=None,
    )
    return DINOv3ViTModel(config)


def train_supervised(model: DINOv3ViTModel, epochs: int, seed: int) -> None:
    """With a linear head on the class token."""
    head = nn.Linear(model.config.hidden_size, 10)

    def loss_of(batch: dict[str, Any]) -> torch.Tensor:
        return F.cross_entropy(head(model(batch["pixel_values"]).pooler_output), batch["labels"])

    model.train()
    digits = AugmentedDigits(load_demo_digits(seed=0)[0])
    train([*model.parameters(), *head.parameters()], digits, loss_of, epochs=epochs, batch_size=64, seed=seed)
    model.eval()


@torch.no_grad()
def features_of(model: nn.Module, images: Images) -> torch.Tensor:
    """The class token behind the final norm, `[images, hidden_size]`."""
    return torch.cat([model(pixels).pooler_output for pixels in images.pixels.split(100)])


def knn_accuracy(
    gallery: torch.Tensor, gallery_labels: torch.Tensor, features: torch.Tensor, labels: torch.Tensor
) -> float:
    """Of the most frequent class among the nearest neighbours, each counting by its cosine."""
    similarities = F.normalize(features, dim=1) @ F.normalize(gallery, dim=1).T
    nearest = similarities.topk(NUM_NEIGHBOURS, dim=1)
    votes = torch.zeros(len(features), 10).scatter_add_(1, gallery_labels[nearest.indices], nearest.values)
    return (votes.argmax(dim=1) == labels).float().mean().item()


def fit_probe(features: torch.Tensor, labels: torch.Tensor) -> nn.Linear:
    """A linear classifier of fixed features, by gradient descent until it settles."""
    probe = nn.Linear(features.shape[1], 10)
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(probe(features), labels) + 1e-4 * probe.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return probe


class Measurement:
    """Images, and what the dense model makes of them."""

    def __init__(self, dense: nn.Module):
        training, self.test = load_digits()
        self.gallery = choose(training, 1000, seed=1)
        self.dense_features = features_of(dense, self.test)
        self.probe = fit_probe(features_of(dense, training), training.labels)

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """k-NN and probe accuracy, and the relative distance of the features from the dense ones."""
        features = features_of(model, self.test)
        distance = (features - self.dense_features).square().sum()
        spread = (self.dense_features - self.dense_features.mean(dim=0)).square().sum()
        return {
            "knn": knn_accuracy(features_of(model, self.gallery), self.gallery.labels, features, self.test.labels),
            "probe": (self.probe(features).argmax(dim=1) == self.test.labels).float().mean().item(),
            "distance": (distance / spread).sqrt().item(),
        }


def prune(calibrated: SNPPruner, method: str, **asked: Any) -> SNPModel | None:
    """A pruned copy; `None` for what magnitude has no rule for."""
    if method == "magnitude":
        return prune_by_scores(calibrated.model, asked, l2_norm) if "qk_sparsity" in asked else None
    return calibrated.copy().prune(SNPConfig(method=method, reconstruction=False, **asked))


def format_table(results: list[dict]) -> str:
    """Rows by what is pruned, columns by method: k-NN / probe in per cent, and the distance of the features."""
    lines = [f"| pruned | {' | '.join(METHODS)} |", "|---|" + "---:|" * len(METHODS)]
    for row in results:
        cells = []
        for method in METHODS:
            found = row["methods"][method]
            cells.append(
                f"{100 * found['knn']:.1f} / {100 * found['probe']:.1f} ({found['distance']:.2f})"
                if found
                else "\N{EN DASH}"
            )
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Trains, prunes, measures, writes."""
    args = training_parser(__doc__).parse_args()
    logging.basicConfig(level=logging.INFO)

    folder = args.output / "dense"
    if not folder.exists():
        torch.manual_seed(args.seed)
        model = build_model()
        train_supervised(model, args.epochs, args.seed)
        model.save_pretrained(folder)
    pruner = SNPPruner.from_pretrained(folder)
    pruner.calibrate(choose(load_digits()[0], 64, seed=2).pixels)
    measure = Measurement(pruner.model)

    asked = {f"queries and keys \N{MINUS SIGN}{share:.0%}": {"qk_sparsity": share} for share in SHARES}
    for budget in BUDGETS:
        name = f"FLOPs \N{MINUS SIGN}{1 - budget:.0%}"
        asked[name] = {"target_flops": budget, "frozen_parts": ["hidden_sparsity"]}
    results = []
    for name, options in asked.items():
        found = {}
        for method in METHODS:
            model = prune(pruner, method, **options)
            if model is not None:
                found[method] = measure(model) | {"macs": count_macs(model) / count_macs(pruner.model)}
            logger.info(f"{name}, {method}: {found.get(method)}")
        results.append({"name": name, "methods": {method: found.get(method) for method in METHODS}})
    dense = measure(pruner.model)
    table = f"dense: {100 * dense['knn']:.1f} / {100 * dense['probe']:.1f}\n\n{format_table(results)}\n"
    (args.output / "rotary.md").write_text(table, encoding="utf-8")
    report = {"dense": dense, "rows": results, "epochs": args.epochs, "versions": collect_versions(PACKAGES)}
    (args.output / "rotary.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
