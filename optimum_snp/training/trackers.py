"""What experiment trackers (TensorBoard, W&B, MLflow and so on) note of a training, beside its arguments."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class FactsForTrackers(TrainerCallback):
    """While the trackers of a Trainer start, the arguments that they write down also hold what is known of the model.

    All of them take `args.to_dict()` into the config of their run, so that this serves each. The arguments are as they
    were before the first step, and so in checkpoints.

    Args:
        args (`TrainingArguments`):
            Those of the Trainer.
        facts (`dict[str, Any]`):
            What JSON can hold, which the run's config has under `"snp"`.
    """

    def __init__(self, args: TrainingArguments, facts: dict[str, Any]):
        to_dict = args.to_dict
        args.to_dict = lambda: {**to_dict(), "snp": facts}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Comes after the callbacks of the trackers, which a Trainer puts first."""
        vars(args).pop("to_dict", None)
