"""Whether exports of a model that merges tokens do what PyTorch does, on images of the real ViT's tasks.

    python scripts/prepare_real_vit.py
    python scripts/compare_exports.py --tasks digits stamps --images 200

Prunes a quarter of the MLPs and merges half of the patches, exports with the states behind every block among the
outputs, and prints on how many images the class is the same, and on how many the same patches went together: those of
a group have one state.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from prepare_real_vit import OUTPUT
from real_vit.ground import load_ground
from real_vit.pixels import pixel_values

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.exporting.export import export_model
from optimum_snp.exporting.exported import Run
from optimum_snp.models import SNPModel


BATCH_SIZE = 20
CALIBRATION_IMAGES = 64


def groups_of(states: torch.Tensor) -> torch.Tensor:
    """Which tokens of `[tokens, channels]` have one state: `[tokens, tokens]`."""
    _, group = states.unique(dim=0, return_inverse=True)
    return group.unsqueeze(1) == group


@torch.inference_mode()
def compare(model: SNPModel, run: Run, images: torch.Tensor) -> tuple[int, int]:
    """On how many images the class is the same, and the groups behind all blocks."""
    same_class = same_groups = 0
    for batch in images.split(BATCH_SIZE):
        expected, found = model(batch), run(batch.numpy())
        same_class += int((torch.from_numpy(found["logits"]).argmax(-1) == expected.logits.argmax(-1)).sum())
        last = torch.from_numpy(found[f"hidden_states.{len(expected.hidden_states) - 1}"])
        pairs = zip(last, expected.hidden_states[-1], strict=True)
        same_groups += sum(torch.equal(groups_of(there), groups_of(here)) for there, here in pairs)
    return same_class, same_groups


def main(argv: list[str] | None = None) -> int:
    """Prints one row per task and format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ground", type=Path, default=OUTPUT, help="default: %(default)s")
    parser.add_argument("--tasks", nargs="+", default=["digits", "stamps"])
    parser.add_argument("--formats", nargs="+", default=["onnx", "openvino"])
    parser.add_argument("--images", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--token-sparsity", type=float, default=0.5, help="default: %(default)s")
    args = parser.parse_args(argv)

    torch.set_num_threads(1)
    print("| task | format | images | same class | same groups |\n|---|---|---:|---:|---:|")
    for task in args.tasks:
        ground = load_ground(args.ground, task)
        pruner = SNPPruner(ground.dense)
        pruner.calibrate(pixel_values(ground.calibration[:CALIBRATION_IMAGES]), CALIBRATION_IMAGES)
        config = SNPConfig(token_sparsity=args.token_sparsity, mlp_sparsity=0.25, reconstruction=False)
        model = pruner.prune(config)
        model.config.output_hidden_states = True
        images = pixel_values(ground.measured("test", args.images)[0])
        for export_format in args.formats:
            with tempfile.TemporaryDirectory() as folder:
                exported = export_model(model, Path(folder) / "export", format=export_format)
                same = compare(model, exported.open(Path(folder) / "export", num_threads=1), images)
            print(f"| {task} | {export_format} | {len(images)} | {same[0]} | {same[1]} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
