"""The paper's table of speed-ups on this machine: DeiT dense, with the published sizes, and with sizes that run well.

    python scripts/benchmark_latency.py --threads 1 --output latency
    python scripts/benchmark_latency.py --from latency/results.json --output latency
    python scripts/benchmark_latency.py --shapes deit-small --budgets 0.5 0.35 0.25 --output tokens

Time depends on sizes only, so weights and images are random. For each preset there are four plans of the same FLOPs:
`published`; `multiples of 8`, where queries, keys and values also have one size; `fewer heads`, where besides as many
neurons lie in heads of about 48; and `fewer blocks`, where besides a third of the blocks is gone and the MLPs of the
others are larger. With `--budgets`, shares of the dense model's FLOPs, there are three others in their place:
`neurons` alone, all parts cut alike to multiples of 8; `tokens` alone, merged as a share of them is, where that is
in reach; and `both`, where tokens save what neurons save. Dense models run in transformers' own code on eager PyTorch
and torch.compile. Writes results.json, tables.md and speed.png into the output folder.
"""

import argparse
import bisect
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from latency_report import format_tables, plot_speed_ups
from shapes import DEITS, build_dense
from transformers import PretrainedConfig, PreTrainedModel

from optimum_snp import SNPConfig
from optimum_snp.benchmarking.benchmark import benchmark
from optimum_snp.configuration import LATENCY_BACKENDS
from optimum_snp.exporting.export import export_model
from optimum_snp.families import convert
from optimum_snp.plan.sizes import NEURON_PARTS, Part, sizes_of_shares
from optimum_snp.plan.tokens import falling_counts
from optimum_snp.presets import PRESETS
from optimum_snp.structure import block_sizes, num_mergeable_tokens, resized_config, stream_widths
from optimum_snp.structure.costs import count_macs, skeleton


PUBLISHED = "published"
INT8 = "deit-small-1.3g"  # is measured in int8, too
RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino"}
CALIBRATION_IMAGES = 16
WIDE_HEAD = 48
MOST_TOKENS = 0.95  # of the patches that `tokens` merges


def main() -> None:
    """Measures, and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, type=Path, help="folder for the report")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--shapes", nargs="+", choices=DEITS, default=["deit-small"], help="with --budgets")
    parser.add_argument("--budgets", nargs="+", type=float, help="shares of the FLOPs, in place of the presets")
    parser.add_argument("--int8", action="store_true", help="with --budgets measure all in int8, too")
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
    for shape in args.shapes if args.budgets else dict.fromkeys(name.rsplit("-", 1)[0] for name in args.presets):
        with tempfile.TemporaryDirectory() as folder:
            models = save_models(shape, args, Path(folder))
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


def save_models(shape: str, args: argparse.Namespace, folder: Path) -> dict[str, tuple[Path, int]]:
    """The dense model, its plans, and int8 exports: their folders and MACs by name."""
    dense = build_dense(shape)
    dense.save_pretrained(folder / shape)
    ours = convert(dense)
    models = {shape: (folder / shape, count_macs(ours))}
    if args.budgets:
        groups = {f"{shape} {budget:.0%}": plans_within(ours, budget) for budget in args.budgets}
    else:
        groups = {preset: plans(ours, preset) for preset in args.presets if preset.startswith(shape)}
    for group, configs in groups.items():
        for kind, config in configs.items():
            name = f"{group} {kind}"
            model = type(ours)(config).eval()
            model.save_pretrained(folder / name)
            models[name] = folder / name, count_macs(model)
            if args.int8 if args.budgets else group == INT8 and kind != PUBLISHED:
                for format, runtime in RUNTIMES.items():
                    if runtime in args.backends:
                        path = folder / f"{name} {runtime}"
                        images = torch.randn(CALIBRATION_IMAGES, 3, 224, 224)
                        export_model(model, path, format=format, dtype="int8", calibration_dataset=images)
                        models[path.name] = path, models[name][1]
    return models


def plans_within(model: PreTrainedModel, budget: float) -> dict[str, PretrainedConfig]:
    """Configs with at most this share of the MACs: by neurons, by tokens if they suffice, and by both alike."""
    config, most = model.config, budget * count_macs(model)
    num_patches, num_blocks = num_mergeable_tokens(config), len(block_sizes(config))

    def scaled(percent: int, share: float) -> PretrainedConfig:
        """All parts cut to a percentage, and a share of the patches merged."""
        merged = falling_counts(num_patches, num_blocks, share)
        sizes = [part.size_name for part in NEURON_PARTS]
        blocks = [
            {**block, **{name: nearest(block[name] * percent / 100) for name in sizes}, "merged_tokens": count}
            for block, count in zip(block_sizes(config), merged, strict=True)
        ]
        return resized_config(config, blocks, stream_widths(config), refits=False)

    def largest(share: float) -> PretrainedConfig:
        percents = range(1, 101)
        fitting = bisect.bisect_right(percents, most, key=lambda percent: macs(model, scaled(percent, share)))
        return scaled(percents[max(fitting - 1, 0)], share)

    def least_share(most: float) -> float | None:
        shares = (hundredth / 100 for hundredth in range(1, round(100 * MOST_TOKENS) + 1))
        return next((share for share in shares if macs(model, scaled(100, share)) <= most), None)

    configs, tokens = {"neurons": largest(0.0)}, least_share(most)
    if tokens is not None:
        configs["tokens"] = scaled(100, tokens)
    return {**configs, "both": largest(least_share(budget**0.5 * count_macs(model)))}


def plans(model: PreTrainedModel, preset: str) -> dict[str, PretrainedConfig]:
    """Configs of the published sizes, and of others with as many FLOPs or somewhat fewer."""
    sizes = sizes_of_shares(SNPConfig.from_preset(preset), model.config)
    published = [
        {**block, **{part.size_name: sizes[part, index] for part in NEURON_PARTS}}
        for index, block in enumerate(block_sizes(model.config))
    ]
    width, narrow = sizes[Part.WIDTH, 0], nearest(sizes[Part.WIDTH, 0])
    configs = {PUBLISHED: resized_config(model.config, published, [width], refits=False)}
    # Of the smallest blocks, the last of equal ones.
    order = sorted(range(len(published)), key=lambda index: (block_size(published[index]), -index))
    dropped = order[: len(order) // 3]
    wide = [{**block, **wide_heads(block)} for block in published]
    kinds = {
        "multiples of 8": [{**block, **equal_sizes(block)} for block in published],
        "fewer heads": wide,
        "fewer blocks": [None if index in dropped else block for index, block in enumerate(wide)],
    }
    most = macs(model, configs[PUBLISHED])
    return configs | {kind: with_largest_mlps(model, blocks, narrow, most) for kind, blocks in kinds.items()}


def with_largest_mlps(
    model: PreTrainedModel, blocks: list[dict[str, Any] | None], width: int, most: int
) -> PretrainedConfig:
    """The config whose MLPs, all changed by one factor, are the largest that the dense model and `most` MACs allow."""
    dense = block_sizes(model.config)

    def scaled(percent: int) -> PretrainedConfig:
        resized = []
        for block, before in zip(blocks, dense, strict=True):
            if block is not None:
                size = nearest(block["intermediate_size"] * percent / 100)
                block = {**block, "intermediate_size": min(size, before["intermediate_size"])}
            resized.append(block)
        return resized_config(model.config, resized, [width], refits=False)

    percents = range(50, 301)
    fitting = bisect.bisect_right(percents, most, key=lambda percent: macs(model, scaled(percent)))
    return scaled(percents[max(fitting - 1, 0)])


def block_size(block: dict[str, Any]) -> int:
    """Columns of all linear layers of a block."""
    return block["num_attention_heads"] * (block["qk_head_dim"] + block["v_head_dim"]) + block["intermediate_size"]


def equal_sizes(block: dict[str, Any]) -> dict[str, int]:
    """Queries, keys and values of the mean of their sizes."""
    size = nearest((block["qk_head_dim"] + block["v_head_dim"]) / 2)
    return {"qk_head_dim": size, "v_head_dim": size}


def wide_heads(block: dict[str, Any]) -> dict[str, int]:
    """As many neurons in all, in fewer heads: attention maps cost time that FLOPs do not count."""
    neurons = block["num_attention_heads"] * (block["qk_head_dim"] + block["v_head_dim"]) / 2
    heads = max(1, round(neurons / WIDE_HEAD))
    size = nearest(neurons / heads)
    return {"num_attention_heads": heads, "qk_head_dim": size, "v_head_dim": size}


def macs(model: PreTrainedModel, config: PretrainedConfig) -> int:
    """Those of a model of the same class with another config."""
    return count_macs(skeleton(type(model), config))


def nearest(size: float) -> int:
    """The nearest multiple of 8, at least 8."""
    return 8 * max(1, round(size / 8))


if __name__ == "__main__":
    main()
