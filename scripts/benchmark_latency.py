"""The paper's table of speed-ups on this machine: DeiT dense, with the published sizes, and with sizes that run well.

    python scripts/benchmark_latency.py --threads 1 --output latency
    python scripts/benchmark_latency.py --from latency/results.json --output latency

Time depends on sizes only, so weights and images are random. For each preset there are two plans: `published`, and
`friendly` with the same FLOPs, where queries, keys and values have one size and all sizes are multiples of 8. Dense
models run in transformers' own code on eager PyTorch and torch.compile. Writes results.json, tables.md and speed.png
into the output folder.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from latency_report import format_tables, plot_speed_ups
from shapes import build_dense
from transformers import PretrainedConfig, PreTrainedModel

from optimum_snp import SNPConfig
from optimum_snp.benchmarking.benchmark import benchmark
from optimum_snp.configuration import LATENCY_BACKENDS
from optimum_snp.conversion import convert
from optimum_snp.exporting.export import export_model
from optimum_snp.planning.costs import count_macs, skeleton
from optimum_snp.planning.presets import PRESETS
from optimum_snp.planning.sizes import PART_SIZES, WIDTH, Sizes, sizes_of_shares
from optimum_snp.structure import block_sizes, resized_config


# What is also measured in int8, and against transformers' dense model.
INT8 = "deit-small-1.3g"
STEP = 8
CALIBRATION_IMAGES = 16


def main() -> None:
    """Measures, and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, type=Path, help="folder for the report")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--backends", nargs="+", choices=LATENCY_BACKENDS, default=list(LATENCY_BACKENDS))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--num-runs", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--from", dest="saved", type=Path, help="results.json of an earlier run, not to measure again")
    args = parser.parse_args()

    args.output.mkdir(parents=True, exist_ok=True)
    results = json.loads(args.saved.read_text()) if args.saved else measure(args)
    (args.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (args.output / "tables.md").write_text(format_tables(results))
    plot_speed_ups(results, args.output / "speed.png")
    print(format_tables(results))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """For each dense model its plans beside it, in turn."""
    torch.manual_seed(0)
    results: dict[str, Any] = {"machine": None, "macs": {}, "rows": []}
    for shape in dict.fromkeys(preset.rsplit("-", 1)[0] for preset in args.presets):
        with tempfile.TemporaryDirectory() as folder:
            models = save_models(shape, [name for name in args.presets if name.startswith(shape)], args, Path(folder))
            results["macs"] |= {name: macs for name, (_, macs) in models.items()}
            report = benchmark(
                {name: path for name, (path, _) in models.items()},
                backends=args.backends,
                batch_sizes=args.batch_sizes,
                threads=args.threads,
                num_runs=args.num_runs,
                memory=False,
            ).to_dict()
        results["machine"] = report["machine"]
        results["rows"] += [{"dense": shape, **row} for row in report["rows"]]
    return results


def save_models(shape: str, presets: list[str], args: argparse.Namespace, folder: Path) -> dict[str, tuple[Path, int]]:
    """The dense model, its plans, and int8 exports: their folders and MACs by name."""
    dense = build_dense(shape)
    dense.save_pretrained(folder / shape)
    ours = convert(dense)
    models = {shape: (folder / shape, count_macs(ours))}
    for preset in presets:
        published = sizes_of_shares(SNPConfig.from_preset(preset), ours.config)
        for kind, sizes in (("published", published), ("friendly", friendly_sizes(ours, published))):
            name = f"{preset} {kind}"
            model = type(ours)(config_of(ours.config, sizes)).eval()
            model.save_pretrained(folder / name)
            models[name] = folder / name, count_macs(model)
            if (preset, kind) == (INT8, "friendly"):
                for format, runtime in (("onnx", "onnxruntime"), ("openvino", "openvino")):
                    if runtime in args.backends:
                        path = folder / f"{name} {runtime}"
                        images = torch.randn(CALIBRATION_IMAGES, 3, 224, 224)
                        export_model(model, path, format=format, dtype="int8", calibration_dataset=images)
                        models[path.name] = path, models[name][1]
    return models


def config_of(config: PretrainedConfig, sizes: Sizes) -> PretrainedConfig:
    """The config of a ViT with these sizes."""
    blocks = [
        {**block, **{name: sizes[part, index] for part, name in PART_SIZES.items()}}
        for index, block in enumerate(block_sizes(config))
    ]
    return resized_config(config, blocks, [sizes[WIDTH, 0]], method="snp")


def friendly_sizes(model: PreTrainedModel, sizes: Sizes) -> Sizes:
    """Multiples of 8 with one size for queries, keys and values, and at most the FLOPs of `sizes`.

    Each size goes to the nearest multiple, that of a head from the mean of its two; then all MLPs by one factor, as
    large as the FLOPs allow.
    """
    heads = {
        index: (size + sizes["v_sparsity", index]) / 2
        for (part, index), size in sizes.items()
        if part == "qk_sparsity"
    }

    def scaled(factor: float) -> Sizes:
        return {
            (part, index): nearest(
                heads[index] if part in ("qk_sparsity", "v_sparsity") else size,
                factor if part == "mlp_sparsity" else 1.0,
            )
            for (part, index), size in sizes.items()
        }

    def macs(chosen: Sizes) -> int:
        return count_macs(skeleton(type(model), config_of(model.config, chosen)))

    most = macs(sizes)
    candidates = [scaled(percent / 100) for percent in range(150, 49, -1)]
    return next(candidate for candidate in candidates if macs(candidate) <= most)


def nearest(size: float, factor: float) -> int:
    """The multiple of 8 nearest to the product, at least 8."""
    return STEP * max(1, round(size * factor / STEP))


if __name__ == "__main__":
    main()
