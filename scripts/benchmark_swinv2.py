"""Accuracy of a small Swin V2 after pruning, without any training.

    python scripts/benchmark_swinv2.py --output swinv2

Trains a small `Swinv2ForImageClassification` (32 px, patches of 4, windows of 4, three stages of two blocks with 2, 4
and 8 heads, widths 32, 64 and 128) by the demo's recipe on the 4,000 handwritten digits of the training part.
Calibration is on 64 of them without labels, the test on the 1,000 held-out digits: accuracy in per cent, and in
brackets the cross-entropy, which tells models apart whose accuracies differ by chance.

Rows prune values, MLPs or whole heads alone by a share, or all of them by a budget of FLOPs, in closed form and with
reconstruction in sequence. The dense model is kept in the output folder and used again.

Writes `swinv2.md` (the table, also printed) and `swinv2.json`.
"""

from typing import Any

from digits import Images, choose, load_digits, measure_accuracy, measure_cross_entropy
from reporting import write_results
from small_training import training_parser
from torch import nn
from tqdm.auto import tqdm
from transformers import Swinv2Config, Swinv2ForImageClassification

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.demo.data import load_digits as load_demo_digits
from optimum_snp.demo.dense import train_dense
from optimum_snp.structure.costs import count_macs


HEADS_AND_BLOCKS = {"head_sparsity": "auto", "dropped_blocks": "auto"}
ROWS: dict[str, dict[str, Any]] = {
    "values \N{MINUS SIGN}50%": {"v_sparsity": 0.5},
    "MLP \N{MINUS SIGN}50%": {"mlp_sparsity": 0.5},
    "heads \N{MINUS SIGN}50%": {"head_sparsity": 0.5},
    "FLOPs \N{MINUS SIGN}25%": {"target_flops": 0.75},
    "FLOPs \N{MINUS SIGN}50%": {"target_flops": 0.5},
    "FLOPs \N{MINUS SIGN}50%, heads and blocks too": {"target_flops": 0.5, **HEADS_AND_BLOCKS},
}
# By column: the method, and whether blocks are reconstructed in sequence.
COLUMNS = {
    "snp": ("snp", False),
    "snp-refit, closed form": ("snp-refit", False),
    "projection, closed form": ("projection", False),
    "snp-refit": ("snp-refit", True),
    "projection": ("projection", True),
}
PACKAGES = ("optimum-snp", "torch", "transformers", "mlxtend")


def build_model() -> Swinv2ForImageClassification:
    """An untrained Swin V2: 32 px, patches of 4, windows of 4, three stages of two blocks, heads of 16."""
    names = {digit: str(digit) for digit in range(10)}
    config = Swinv2Config(
        image_size=32,
        patch_size=4,
        embed_dim=32,
        depths=[2, 2, 2],
        num_heads=[2, 4, 8],
        window_size=4,
        pretrained_window_sizes=[0, 0, 0],
        drop_path_rate=0.0,
        initializer_range=0.1,
        id2label=names,
        label2id={name: digit for digit, name in names.items()},
    )
    return Swinv2ForImageClassification(config)


def measure(model: nn.Module, test: Images) -> dict[str, float]:
    """Accuracy and cross-entropy on the held-out digits."""
    return {"accuracy": measure_accuracy(model, test), "cross_entropy": measure_cross_entropy(model, test)}


def format_table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """Rows by what is pruned, columns by method: accuracy in per cent, and the cross-entropy."""
    lines = [f"| pruned | FLOPs | {' | '.join(COLUMNS)} |", "|---|---:|" + "---:|" * len(COLUMNS)]
    for name, found in rows.items():
        cells = [f"{100 * cell['accuracy']:.1f} ({cell['cross_entropy']:.2f})" for cell in found.values()]
        shares = {f"{cell['macs'] - 1:+.1%}" for cell in found.values()}
        lines.append(f"| {name} | {' / '.join(sorted(shares))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Trains, prunes, measures, writes."""
    args = training_parser(__doc__).parse_args()

    folder, (training, test) = args.output / "dense", load_digits()
    if not folder.exists():
        digits, _ = load_demo_digits(seed=0)
        model = train_dense(build_model, digits, str(args.output / "trainer"), epochs=args.epochs, seed=args.seed)
        model.save_pretrained(folder)
    pruner = SNPPruner.from_pretrained(folder)
    pruner.calibrate(choose(training, 64, seed=2).pixels)
    dense = measure(pruner.model, test)
    rows: dict[str, dict[str, Any]] = {name: {} for name in ROWS}
    for name, column in tqdm([(name, column) for name in ROWS for column in COLUMNS], unit="model"):
        method, reconstruction = COLUMNS[column]
        model = pruner.copy().prune(SNPConfig(method=method, reconstruction=reconstruction, **ROWS[name]))
        rows[name][column] = measure(model, test) | {"macs": count_macs(model) / count_macs(pruner.model)}
    table = (
        f"dense: {100 * dense['accuracy']:.1f} ({dense['cross_entropy']:.2f}), "
        f"{count_macs(pruner.model) / 1e6:.1f} M multiply-accumulates\n\n{format_table(rows)}\n"
    )
    write_results(args, "swinv2", table, {"dense": dense, "rows": rows}, PACKAGES)
    print(table)


if __name__ == "__main__":
    main()
