"""Export a model for ONNX Runtime or OpenVINO, checked against PyTorch before anything is written.

Examples:
  optimum-cli snp export small --output small-onnx
  optimum-cli snp export small --format openvino --dtype int8 --calibration-dataset my/images --output small-int8
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from ..exporting.export import DTYPES, FORMATS, check_export
from ..pruner import SNPPruner
from .common import (
    Result,
    add_dataset_arguments,
    add_model_argument,
    add_output_argument,
    add_reading_arguments,
    load_named_dataset,
    reading_options,
)
from .numbers import count, seed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_model_argument(parser)
    add_output_argument(parser, "the model is written")
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="default: %(default)s")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="fp32", help="int8 needs images to calibrate on (default: %(default)s)"
    )
    parser.add_argument("--opset", type=count, metavar="N", help="version of ONNX's operators (default: PyTorch's)")
    images = parser.add_argument_group("images for int8, and to compare with PyTorch on (else random ones)")
    add_dataset_arguments(images, "calibration-dataset", "unlabelled images", required=False, split="train")
    images.add_argument("--num-samples", type=count, default=64, metavar="N", help="how many (default: %(default)s)")
    images.add_argument("--seed", type=seed, default=42, metavar="N", help="of their choice (default: %(default)s)")
    add_reading_arguments(images, labels=False, workers=False)


def run(args: argparse.Namespace) -> Result:
    """Exports and prints how close the result is to the model in PyTorch."""
    has_images = args.calibration_dataset is not None
    check_export(
        args.output, args.format, args.dtype, has_images=has_images, opset=args.opset, overwrite=args.overwrite
    )
    dataset = load_named_dataset(args.calibration_dataset, args.calibration_dataset_split) if has_images else None
    exported = SNPPruner.from_pretrained(args.model).export(
        args.output,
        format=args.format,
        dtype=args.dtype,
        calibration_dataset=dataset,
        num_samples=args.num_samples,
        seed=args.seed,
        opset=args.opset,
        overwrite=args.overwrite,
        **reading_options(args),
    )
    check, model = exported.check, Path(args.output).expanduser() / exported.file
    size = sum(path.stat().st_size for path in model.parent.glob(f"{model.stem}.*"))  # OpenVINO writes two
    lines = [
        f"{exported.file}  {size / 1e6:.1f} MB, {exported.dtype}",
        f"difference from PyTorch on {check.num_images} images: at most {check.largest_difference:.2g}, "
        f"{check.relative_error:.2%} on the whole",
    ]
    if check.top1_agreement is not None:
        lines.append(f"same class  {check.top1_agreement:.1%} of the images")
    lines.append(f"Saved in {args.output}")
    return {"output": args.output, "bytes": size, **asdict(exported)}, "\n".join(lines)
