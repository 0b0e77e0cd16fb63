"""`transformers.Trainer` with a teacher and what a recipe has beside training arguments."""

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from ..data import MULTI_LABEL, REGRESSION, SINGLE_LABEL, problem_type
from ..structure import model_inputs
from .averaging import WeightAverage
from .checkpoints import CheckpointingTrainer
from .depth import layer_depths, stochastic_depth
from .distillation import TEACHER_LOGITS, Teacher
from .mixing import Mixing
from .recipes import Recipe


def loss_of_labels(problem: str, logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """The mean loss of logits `[batch, num_labels]` by the problem that they solve, as transformers has it.

    Args:
        problem (`str`):
            `"single_label_classification"`: the cross-entropy with classes `[batch]` or their probabilities;
            `"multi_label_classification"`: the binary one with zeros and ones `[batch, num_labels]`; `"regression"`:
            the squared error of numbers, `[batch]` or `[batch, num_labels]`.
        logits, labels:
            Of one batch.
        smoothing (`float`):
            Label smoothing of one class per image, in [0, 1).
    """
    if problem == MULTI_LABEL:
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits))
    if problem == REGRESSION:
        return F.mse_loss(logits.reshape(labels.shape), labels.to(logits))
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


class FineTuningTrainer(CheckpointingTrainer):
    """A [`~transformers.Trainer`] for teachers and recipes. Without either it is the Trainer itself.

    Args:
        teacher ([`Teacher`], *optional*):
            Whom the model learns from, beside the labels.
        recipe ([`Recipe`], *optional*):
            Gives mixup and cutmix, stochastic depth, the average of the weights and the learning rates of the layers;
            image transforms are the data set's, the schedule is that of the training arguments.

    Raises:
        ValueError: If the recipe does not go with the training arguments.
    """

    def __init__(self, *args: Any, teacher: Teacher | None = None, recipe: Recipe | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.teacher = teacher
        self.recipe = recipe
        self.mixing = Mixing.of(recipe, self.model.config.num_labels)
        self.problem = problem_type(self.model.config)
        self.average = None
        self._check_loss()
        if recipe is not None:
            self._check_recipe(recipe)
        if recipe is not None and recipe.ema:
            self.average = WeightAverage(self.model, recipe.ema)
            self.add_callback(self.average)

    def _check_loss(self) -> None:
        """A loss of the caller's own stands in the place of ours; what ours is for would be lost with it."""
        if self.compute_loss_func is not None and (self.teacher is not None or self.mixing is not None):
            what = "a teacher" if self.teacher is not None else "mixup and cutmix"
            raise ValueError(
                f"compute_loss_func replaces the loss that learns from {what}. Leave out one of the two, or subclass "
                "the Trainer."
            )

    def _check_recipe(self, recipe: Recipe) -> None:
        is_split = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if is_split and (recipe.ema or recipe.layer_decay < 1):
            raise ValueError(
                "FSDP and DeepSpeed split the weights up, so that the recipe can neither average them nor tell their "
                "layers. Use recipe.without('ema') with layer_decay=1.0, or neither of the two."
            )
        dtypes = {parameter.dtype for parameter in self.model.parameters()}
        if recipe.ema and dtypes & {torch.bfloat16, torch.float16}:
            raise ValueError(
                "An average of weights in bfloat16 or float16 soon stands still, since its steps round to nothing. "
                "Load the model in float32 and set bf16=True or fp16=True, or use recipe.without('ema')."
            )
        if recipe.ema and self.args.load_best_model_at_end:
            raise ValueError(
                "The recipe ends with the average of the weights over the whole training, which does not go with "
                "load_best_model_at_end. Use recipe.without('ema')."
            )

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> TrainOutput:
        """As [`~transformers.Trainer.train`]; the model ends with the average of its weights where there is one."""
        if resume_from_checkpoint is not None and self.average is not None:
            self.average.load(resume_from_checkpoint)
        depth = (
            contextlib.nullcontext()
            if self.recipe is None
            else stochastic_depth(self._snp_model, self.recipe.drop_path)
        )
        with depth:
            output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        if self.average is not None:
            self.average.apply()
        return output

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As [`CheckpointingTrainer.save_model`], with the average beside the weights, which are the latest."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save and self.average is not None:
            self.average.save(output_dir or self.args.output_dir)

    @property
    def _snp_model(self) -> nn.Module:
        """The model in our architecture, with adapters in it or without."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As in [`~transformers.Trainer`], of the average of the weights while training keeps one."""
        averaged = self.average.applied() if self.average and self.is_in_train else contextlib.nullcontext()
        with averaged:
            return super().evaluation_loop(*args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """In training the loss of the problem with the labels, mixed or not, or [`Teacher.loss`].

        What needs nothing of ours is left to [`~transformers.Trainer`].
        """
        is_plain = self.teacher is None and self.recipe is None and self.problem == SINGLE_LABEL
        if not model.training or is_plain or self.compute_loss_func is not None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs = dict(inputs)
        labels, teacher_logits = inputs.pop("labels"), inputs.pop(TEACHER_LOGITS, None)
        if self.mixing is not None:
            inputs["pixel_values"], labels = self.mixing(inputs["pixel_values"], labels)
        if self.teacher is not None and teacher_logits is None:
            teacher_logits = self.teacher(model_inputs(inputs))
        outputs = model(**inputs)
        smoothing = self.args.label_smoothing_factor
        if self.teacher is None:
            loss = loss_of_labels(self.problem, outputs.logits.float(), labels, smoothing)
        else:
            loss = self.teacher.loss(outputs, labels, teacher_logits, smoothing)
        if num_items_in_batch is not None:  # of all batches of a step: those that are smaller weigh less
            processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
            # The Trainer counts every label of an image that has several; a mixed one stands for one.
            count = labels.numel() if self.problem != SINGLE_LABEL else len(labels)
            loss = loss * count * processes / num_items_in_batch
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in [`~transformers.Trainer`], with a learning rate for each depth where the recipe says so."""
        optimizer = super().create_optimizer(model)
        if self.recipe is not None and self.recipe.layer_decay < 1:
            depths = layer_depths(self._snp_model)
            by_weight = {id(weight): depths[name] for name, weight in self._snp_model.named_parameters()}
            deepest = max(depths.values())
            groups, optimizer.param_groups = optimizer.param_groups, []
            for group in groups:
                for depth in sorted({by_weight[id(weight)] for weight in group["params"]}):
                    params = [weight for weight in group["params"] if by_weight[id(weight)] == depth]
                    rate = group["lr"] * self.recipe.layer_decay ** (deepest - depth)
                    optimizer.add_param_group({**group, "params": params, "lr": rate})
        return optimizer
