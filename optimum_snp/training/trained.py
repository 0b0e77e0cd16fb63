"""The model that a training leaves behind."""

from ..devices import unwrap
from ..models import SNPModel, build_like
from ..processes import tensors_of_main_process
from .checkpoints import CheckpointingTrainer


def trained_model(trainer: CheckpointingTrainer, source: SNPModel) -> SNPModel:
    """The model that a training leaves, in eval mode, the same on all processes and with nothing wrapped around it.

    Shards are put together, and adapters are merged into the weights that they adapt.

    Args:
        trainer ([`CheckpointingTrainer`]):
            Whose training has ended.
        source:
            The model that it was built for.
    """
    if trainer.is_fsdp_enabled:
        weights = trainer.accelerator.get_state_dict(trainer.model)  # by all processes, whole in the main one
        weights = tensors_of_main_process(lambda: weights)
        model_class = next(kind for kind in type(source).__mro__ if "FSDP" not in kind.__name__)
        return build_like(source, model_class, source.config, weights)
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    unwrap(model)
    if model is not source and hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
        trainable = {name: parameter.requires_grad for name, parameter in source.named_parameters()}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trainable[name])  # adapters freeze what they adapt
    return model.eval()
