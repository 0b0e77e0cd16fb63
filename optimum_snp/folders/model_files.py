"""Which files of a folder are those of a saved model, and by which one knows who wrote it."""

import re

from ..file_names import CONFIG_NAME, MEASUREMENTS_NAME, PLAN_NAME


# training_args.bin and adapters are what a Trainer writes beside weights or instead; ours replace those.
_MODEL_FILES = re.compile(
    rf"{re.escape(CONFIG_NAME)}|{re.escape(PLAN_NAME)}|{re.escape(MEASUREMENTS_NAME)}"
    r"|config\.json|generation_config\.json|(pre)?processor_config\.json|pictures/(kept_sizes|attention_spectra)\.png"
    r"|model(\.\w+)?(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index(\.\w+)?\.json"
    r"|(configuration|modeling)_snp_\w+\.py|training_args\.bin|adapter_(config\.json|model\.safetensors)"
)

# Patterns of the files by which a folder shows that this library wrote it, or a training of it.
MODEL_MARKS = (MEASUREMENTS_NAME, PLAN_NAME, f"checkpoint-*/{MEASUREMENTS_NAME}")


def is_model_file(path: str) -> bool:
    """Whether a file belongs to a saved model and goes when another takes its place; all else is a person's.

    Args:
        path (`str`):
            Relative to the folder or repository of the model, with `/` between its parts.
    """
    return bool(_MODEL_FILES.fullmatch(path))
