"""Ways to quantise to int8: how much each changes the outputs, and how fast it is. `export` uses the first of each.

    python scripts/compare_quantization.py path/to/demo/deit path/to/demo/swin

Errors are root mean squares of the differences from PyTorch over those of the logits, on the 1,000 test digits, of
models that were trained on the demo's digits and pruned by projection to half of their FLOPs on 64 of them. Times are
medians of one thread, all in turn, of a DeiT-Small with the FLOPs of `deit-small-1.3g` in multiples of 8 and random
weights.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx
import torch
from benchmark_latency import plans
from digits import choose, load_digits
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from shapes import build_dense
from torch import nn

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.benchmarking.latency import time_in_turn
from optimum_snp.benchmarking.stopwatch import fair_stopwatch
from optimum_snp.exporting.onnx import onnx_session, quantize_onnx, to_onnx
from optimum_snp.exporting.openvino import openvino_request, quantize_openvino, to_openvino
from optimum_snp.families import convert


Run = Callable[[np.ndarray], np.ndarray]
BATCH_SIZES, NUM_RUNS = (1, 8), 15
# Settings of NNCF in place of those of `quantize_openvino`.
NNCF = {
    "as export does": None,
    "products in attention, too": {"preset": nncf.QuantizationPreset.PERFORMANCE, "smooth": -1},
    "and asymmetric ranges": {"preset": nncf.QuantizationPreset.MIXED, "smooth": -1},
    "and SmoothQuant: its defaults": {"preset": nncf.QuantizationPreset.MIXED, "smooth": 0.95},
}
# Operators that ONNX Runtime quantises, and whether also what comes out of them.
LINEAR, REST = ("MatMul", "Gemm"), ("Conv", "Add", "Softmax", "Gelu")
ONNX_RUNTIME = {
    "as export does": None,
    "products in attention, too": (LINEAR, False),
    "and outputs": (LINEAR, True),
    "and convolution, additions, softmax, GELU": (LINEAR + REST, True),
}


def main() -> None:
    """Prints one row per runtime and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="folders of dense models that were trained on the demo's digits")
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)
    train_part, test_part = load_digits()
    images = choose(train_part, 64, seed=0).pixels
    cells: dict[tuple[str, str], list[str]] = {}
    for name in args.models:
        pruner = SNPPruner.from_pretrained(name)
        model = pruner.prune(SNPConfig(target_flops=0.5), calibration_dataset=images)
        with torch.inference_mode():
            expected = model(test_part.pixels).logits.numpy()
        for way, run in ways(model, images):
            error = np.linalg.norm(run(test_part.pixels.numpy()) - expected) / np.linalg.norm(expected)
            cells.setdefault(way, []).append(f"{error:.1%}")
    ours = convert(build_dense("deit-small"))
    sized = type(ours)(plans(ours, "deit-small-1.3g")["multiples of 8"]).eval()
    runs = dict(ways(sized, torch.randn(16, 3, 224, 224)))
    for batch_size in BATCH_SIZES:
        pixels = torch.randn(batch_size, 3, 224, 224).numpy()
        calls = {way: lambda run=run, pixels=pixels: run(pixels) for way, run in runs.items()}
        stopwatch = fair_stopwatch(torch.device("cpu"), 1)
        for way, seconds in time_in_turn(calls, stopwatch, num_runs=NUM_RUNS, num_warmup=3).items():
            cells[way].append(f"{seconds * 1e3:.1f}")
    columns = [*(f"error, {Path(name).name}" for name in args.models), *(f"ms, batch {size}" for size in BATCH_SIZES)]
    print(f"| runtime | quantised | {' | '.join(columns)} |\n|---|---|{'---:|' * len(columns)}")
    for (runtime, way), values in cells.items():
        print(f"| {runtime} | {way} | {' | '.join(values)} |")


def ways(model: nn.Module, images: torch.Tensor) -> Iterator[tuple[tuple[str, str], Run]]:
    """Every way for every runtime, as calls from pixel values to logits."""

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.model(pixel_values).logits

    graph = to_onnx(Logits().eval(), (images[:2],), ["pixel_values"], ["logits"], any_batch=True)
    for way, settings in ONNX_RUNTIME.items():
        quantized = quantize_onnx(graph, images.split(16)) if settings is None else by_onnx(graph, images, *settings)
        yield ("ONNX Runtime", way), bind_session(onnx_session(quantized, 1))
    network = to_openvino(graph)
    for way, settings in NNCF.items():
        quantized = (
            quantize_openvino(network, images.split(1)) if settings is None else by_nncf(network, images, settings)
        )
        yield ("OpenVINO", way), bind_request(openvino_request(quantized, 1))


def bind_session(session: Any) -> Run:
    """A call of ONNX Runtime."""
    return lambda pixels: session.run(None, {"pixel_values": pixels})[0]


def bind_request(request: Any) -> Run:
    """A call of OpenVINO."""
    return lambda pixels: request.infer([pixels]).to_tuple()[0].copy()


def by_onnx(
    graph: onnx.ModelProto, images: torch.Tensor, operators: tuple[str, ...], with_outputs: bool
) -> onnx.ModelProto:
    """Static quantisation of these operators."""

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.batches = iter(images.split(16))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"pixel_values": batch.numpy()}

    with tempfile.TemporaryDirectory() as folder:
        prepared, quantized = Path(folder, "prepared.onnx"), Path(folder, "quantized.onnx")
        quant_pre_process(graph, prepared)
        quantization.quantize_static(
            prepared,
            quantized,
            Reader(),
            op_types_to_quantize=list(operators),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": [] if with_outputs else list(operators)},
        )
        return onnx.load(quantized)


def by_nncf(network: Any, images: torch.Tensor, settings: dict[str, Any]) -> Any:
    """Quantisation after training, for transformers."""
    return nncf.quantize(
        network,
        nncf.Dataset([image.numpy() for image in images.split(1)]),
        subset_size=len(images),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=settings["preset"],
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=settings["smooth"])
        ),
    )


if __name__ == "__main__":
    main()
