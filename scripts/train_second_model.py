"""Trains the second model of the benchmarks: a ViT of other depth and width than the demo's DeiT, on the same digits.

    python scripts/train_second_model.py models/second-vit

8 layers of 4 heads, width 128, 1.6 M parameters; some ten minutes on two cores. The other two models are the demo's.
"""

import argparse

from transformers import ViTConfig, ViTForImageClassification

from optimum_snp.demo.data import load_digits
from optimum_snp.demo.dense import build_image_processor, start_positions, train_dense


def build_vit() -> ViTForImageClassification:
    """The untrained ViT."""
    config = ViTConfig(
        image_size=32,
        patch_size=4,
        hidden_size=128,
        num_hidden_layers=8,
        num_attention_heads=4,
        intermediate_size=512,
        initializer_range=0.1,
        num_labels=10,
    )
    model = ViTForImageClassification(config)
    start_positions(model)
    return model


def main() -> None:
    """Trains and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="folder for the model")
    parser.add_argument("--epochs", type=int, default=22)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    train_digits, _ = load_digits(args.seed)
    model = train_dense(build_vit, train_digits, f"{args.output}-run", epochs=args.epochs, seed=args.seed)
    model.save_pretrained(args.output)
    build_image_processor().save_pretrained(args.output)


if __name__ == "__main__":
    main()
