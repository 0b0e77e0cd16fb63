"""What compiles a model for its training."""

import torch
from accelerate.utils import DynamoBackend
from transformers import TrainingArguments


def check_backend(args: TrainingArguments) -> None:
    """Tells before any work whether there is the backend of torch.compile that is asked for.

    Raises:
        ValueError: If PyTorch or Accelerate does not know it.
    """
    if not args.torch_compile:
        return
    known = {*map(str.lower, DynamoBackend.list())} & {*torch.compiler.list_backends(exclude_tags=())}
    if args.torch_compile_backend.lower() not in known:
        raise ValueError(
            f"torch_compile_backend must be one of {', '.join(sorted(known))}, got {args.torch_compile_backend!r}."
        )
