"""Builds the proving ground: a real pretrained ViT-S/14 as a Hugging Face model, with two tasks of real images.

    apt-get install tuxpaint-stamps-default            # the pictures of `stamps`
    pip install onnx onnxruntime scikit-learn
    python scripts/prepare_real_vit.py

Each task is a linear probe on frozen features, saved as an ordinary `ViTForImageClassification` with its image
processor. For each the output gets `TASK/model/` and `TASK/data.pt`, a dict of tensors: `calibration` (unlabelled
images), `x` and `y` (test images with classes), all images `[N, 3, size, size]` uint8. Ten minutes on two cores.
"""

import argparse
from pathlib import Path

import torch
from real_vit.backbone import build_classifier, load_backbone
from real_vit.pixels import MEAN, STD, pixel_values
from real_vit.tasks import TASKS, Task
from sklearn.linear_model import LogisticRegression
from transformers import ViTForImageClassification, ViTImageProcessor


OUTPUT = Path("~/.cache/snp-real-vit").expanduser()


@torch.inference_mode()
def class_tokens(model: ViTForImageClassification, images: torch.Tensor) -> torch.Tensor:
    """The final features that the classifier reads, `[N, 384]`."""
    return torch.cat([model.vit(pixel_values(chunk)).last_hidden_state[:, 0] for chunk in images.split(32)])


def fit_classifier(model: ViTForImageClassification, task: Task) -> float:
    """Fits the classifier in place; returns its accuracy on the test."""
    images, labels = task.train
    fitted = LogisticRegression(max_iter=3000, C=task.strength).fit(
        class_tokens(model, images).numpy(), labels.numpy()
    )
    model.classifier.weight.data = torch.from_numpy(fitted.coef_).float()
    model.classifier.bias.data = torch.from_numpy(fitted.intercept_).float()
    images, labels = task.test
    return fitted.score(class_tokens(model, images).numpy(), labels.numpy())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: %(default)s")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    args = parser.parse_args(argv)
    weights = load_backbone()
    for name in args.tasks:
        task = TASKS[name]()
        model = build_classifier(weights, task.size, task.labels)
        print(f"{name}: dense accuracy {fit_classifier(model, task):.3f}", flush=True)
        folder = args.output / name
        model.save_pretrained(folder / "model")
        ViTImageProcessor(
            size={"height": task.size, "width": task.size}, image_mean=list(MEAN), image_std=list(STD)
        ).save_pretrained(folder / "model")
        images, labels = task.test
        data = {"calibration": task.calibration.clone(), "pictures": task.pictures, "x": images.clone(), "y": labels}
        torch.save(data, folder / "data.pt")


if __name__ == "__main__":
    main()
