"""The public verbs. Thin: each calls one stage of the road and keeps what the next one needs."""

import contextlib
import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    BaseImageProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import TrainOutput

from .calibration import (
    CalibrationImages,
    CalibrationStatistics,
    choose_images,
    collect_from_images,
    fingerprint_of_version_0_1,
    model_fingerprint,
)
from .calibration.copies import num_copies
from .configuration import NATIVE_LAYOUT, SNP_LAYOUT, SNPConfig
from .data import REGRESSION, LabelMap, ModelClasses, problem_type
from .data.classes import number_names
from .devices import put_back
from .exporting.export import export_model
from .exporting.exported import ExportedModel
from .families import convert, convert_image_processor, our_classes
from .file_names import MEASUREMENTS_NAME, PLAN_NAME
from .loading import load_image_processor, load_saved, load_source, load_tokenizer
from .methods import method_of, warn_of_few_images
from .models import SNPModel, has_classifier
from .plan.plan import PruningPlan
from .planning.decide import check_fits
from .planning.trial import decide_together
from .processes import process_state, run_on_main_process
from .pruning import build_pruned
from .publishing import prepare_push_of_training, push_model, save_model, write_history
from .publishing.recording import record_accuracy, record_latency, record_zero_shot
from .record import Measurements, ModelRecord, Origin, read_origin
from .recovery import Recovery, recover
from .reshaping.classes import keep_classes
from .structure import describe
from .training import (
    DistillationConfig,
    Recipe,
    build_trainer,
    checkpoint_to_resume,
    trained_model,
)


if TYPE_CHECKING:
    from peft import PeftConfig


logger = logging.getLogger(__name__)


class SNPPruner:
    """Makes a Vision Transformer smaller: calibrate, plan, prune, fine-tune, evaluate, save, push.

    Method `"snp"` is Structured Neuron-level Pruning (arXiv 2404.11630): neurons of queries and keys are kept by how
    well they preserve the attention scores of calibration images, neurons of values and MLP by how little they repeat
    others, and the channels of the residual stream with one index set for the whole network. The default,
    `"projection"`, keeps directions instead of neurons in closed form (docs/one-shot.md), which needs no training; see
    [`SNPConfig`].

    Attributes:
        model: The model at its present stage, in our architecture.
        image_processor: Prepares images for it; `None` if it came without.
        tokenizer: Prepares texts for a model that reads them beside images, and is saved with it; `None` of all
            others, and of one that came without.
        statistics: What calibration found on `model`; `None` before calibration and after pruning.
        calibration_images: The images that `model` was calibrated on, for reconstruction; `None` as `statistics`, and
            with statistics that were loaded.
        pruning_plan: The plan that `model` was pruned by; `None` before.
        original: The model as it was before this pruner first pruned it, the teacher of `finetune` unless another is
            named; `None` before. Set it to `None` to free its memory.
        measurements: What was measured of `model` and of the stages before it; the card states these numbers.
        origin: Where the model comes from, for its card.
        layout: What `save_pretrained` and `push_to_hub` write unless told otherwise: what the config of the last plan
            asked for, or what the model was loaded from.

    Example:

    ```python
    >>> from optimum_snp import SNPConfig, SNPPruner

    >>> pruner = SNPPruner.from_pretrained("facebook/deit-small-patch16-224")
    >>> pruner.calibrate("folder/of/images", num_samples=256)
    >>> plan = pruner.plan(SNPConfig(target_flops=0.5))
    >>> print(plan)
    >>> model = pruner.prune(plan)
    >>> pruner.save_pretrained("deit-small-snp")
    >>> pruner.push_to_hub("me/deit-small-snp")
    ```
    """

    def __init__(
        self,
        model: PreTrainedModel,
        image_processor: BaseImageProcessor | None = None,
        pruning_plan: PruningPlan | None = None,
        measurements: Measurements | None = None,
        origin: Origin | None = None,
    ):
        """Takes a loaded model; [`SNPPruner.from_pretrained`] also takes names. `model` itself is never changed."""
        self.model: SNPModel = convert(model)
        number_names(self.model.config)
        self.image_processor = convert_image_processor(image_processor, type(model).__name__)
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.statistics: CalibrationStatistics | None = None
        self.calibration_images: CalibrationImages | None = None
        self.pruning_plan = pruning_plan
        self.original: SNPModel | None = None
        self.measurements = measurements or Measurements.of_plan(pruning_plan)
        self.origin = origin or read_origin(model.config._name_or_path, local_files_only=True)
        is_native = getattr(model.config, "head_dim", None) is not None  # as plain checkpoints of pruned models
        self.layout = NATIVE_LAYOUT if is_native else SNP_LAYOUT
        self._shares_model = False  # with a copy

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str | Path | PreTrainedModel,
        *,
        image_processor: BaseImageProcessor | None = None,
        **options: Any,
    ) -> "SNPPruner":
        """Loads a model of a registered family (ViT, DeiT, Swin, DINOv2, timm), or a model pruned before.

        Args:
            model_name_or_path (`str`, `Path` or `PreTrainedModel`):
                A folder, a Hub id, a short name of a well-known checkpoint (such as `deit-small` or `swin-tiny`; the
                README lists them), or a loaded model.
            image_processor (`BaseImageProcessor`, *optional*):
                Defaults to the one saved with the model. What prepares sounds, of an AST, is its feature extractor.
            options:
                For `from_pretrained` of the model: `revision`, `token`, `cache_dir`, `dtype` and so on.

        Raises:
            TypeError: If the object is no `PreTrainedModel`, or comes with options that only a name can use.
            ValueError: If the architecture is not supported (the message lists what is), a folder has no config.json,
                a checkpoint lacks weights, or weights cannot be read: NaN, quantised, offloaded, or with adapters.
            ImportError: If a package is missing that the model needs: timm for models of timm.
            OSError: If the Hub or the repository cannot be reached; from transformers.
        """
        if not isinstance(model_name_or_path, (str, Path)):
            if options:
                raise TypeError(f"{', '.join(options)} cannot be used with a model that is loaded already.")
            return cls(model_name_or_path, image_processor)
        source = load_source(model_name_or_path, **options)
        if image_processor is None:
            image_processor = load_image_processor(model_name_or_path, **options)
        plan = measurements = None
        # A head_dim is what plain checkpoints of pruned models have.
        if type(source).__name__ in our_classes() or getattr(source.config, "head_dim", None) is not None:
            plan = load_saved(PruningPlan, PLAN_NAME, model_name_or_path, **options)
            measurements = load_saved(Measurements, MEASUREMENTS_NAME, model_name_or_path, **options)
        pruner = cls(source, image_processor, plan, measurements, read_origin(model_name_or_path, **options))
        if hasattr(source, "text_model"):
            pruner.tokenizer = load_tokenizer(model_name_or_path, **options)
        if plan is not None:
            try:
                plan.check_result(pruner.model.config)
            except ValueError as error:
                raise ValueError(
                    f"The {PLAN_NAME} of {model_name_or_path} is that of another model: {error}."
                ) from error
        pruner.measurements = pruner.measurements.with_fingerprint(
            fingerprint_of_version_0_1(pruner.model), model_fingerprint(pruner.model)
        )
        return pruner

    def copy(self) -> "SNPPruner":
        """Another pruner of the same model at the same stage, for another plan or training.

        It costs no memory: both share the model, its statistics, the teacher and everything else, and a number that
        is measured with one is known to the other, too. The one that is pruned or trained first goes its own way from
        then on, and leaves the other as it was: `prune` builds a new model anyway, and `finetune` then trains a copy
        of the shared one, which takes the memory of one more model. A model that you change yourself is changed for
        both.

        Example:

        ```python
        >>> pruner.calibrate("folder/of/images")
        >>> models = {share: pruner.copy().prune(SNPConfig(target_flops=share)) for share in (0.75, 0.5)}
        ```
        """
        self._shares_model = True
        return copy.copy(self)

    @property
    def record(self) -> ModelRecord:
        """The model at its present stage and how it came about: what is saved, pushed and reported of it."""
        return ModelRecord(
            self.model,
            self.image_processor,
            self.pruning_plan,
            self.measurements,
            self.origin,
            self.layout,
            self.tokenizer,
        )

    def calibrate(
        self,
        dataset: Any,
        num_samples: int = 256,
        *,
        batch_size: int = 16,
        seed: int = 42,
        image_column: str | None = None,
        num_workers: int | None = None,
        skip_unreadable: bool = False,
        moments: bool = True,
        sensitivities: bool = True,
        classes: Sequence[str | int] | None = None,
    ) -> CalibrationStatistics:
        """Runs unlabelled images through the model and keeps the statistics that scores are computed from.

        Under `torchrun` or `accelerate launch` the batches are spread over the processes; all end with the same
        statistics. They can be saved with `pruner.statistics.save(path)`.

        Args:
            dataset:
                A `datasets.Dataset` or `IterableDataset` with a column of images, a `torch.utils.data.Dataset` of
                images, `(image, label)` pairs or dicts with `pixel_values`, a folder of images, or a tensor
                `[N, C, H, W]` of pixel values.
            num_samples (`int`, *optional*, defaults to 256):
                Images to use, chosen at random by `seed`; of a stream the first.
            batch_size (`int`, *optional*, defaults to 16):
                Images per forward pass.
            seed (`int`, *optional*, defaults to 42):
                Of the choice of images.
            image_column (`str`, *optional*):
                The column of images, where their feature type does not tell.
            num_workers (`int`, *optional*):
                Processes that decode images; by default a number that suits the data set.
            skip_unreadable (`bool`, *optional*, defaults to `False`):
                Whether other images take the place of those that cannot be read, which are named.
            moments (`bool`, *optional*, defaults to `True`):
                Whether to sum what methods `"snp-refit"` and `"projection"` and all budgets need. `"snp"` is faster
                without.
            sensitivities (`bool`, *optional*, defaults to `True`):
                Whether to sum, with the moments, what budgets need: a backward pass over a few of the images.
            classes (`Sequence[str | int]`, *optional*):
                Some of the model's classes, by name or number, which it is to be pruned for: of the dataset, which
                needs labels then, images of these are used, and the model loses the logits of all others.

        Returns:
            [`CalibrationStatistics`]

        Raises:
            TypeError: If the dataset is of no supported kind, or the model has no `classes`.
            ValueError: If it is empty, has no column of images, or an image cannot be read or has the wrong shape; if
                `classes` cannot be told, are fewer than two, or one has no image in the dataset.
        """
        numbers = None if classes is None else self._numbers_of(classes)
        images = self._choose_images(
            dataset,
            num_samples,
            classes=numbers,
            batch_size=batch_size,
            seed=seed,
            image_column=image_column,
            num_workers=num_workers,
            skip_unreadable=skip_unreadable,
        )
        model = self.model if numbers is None else keep_classes(self.model, numbers)
        self.statistics = collect_from_images(model, images, seed=seed, moments=moments, sensitivities=sensitivities)
        self.model, self.calibration_images = model, images
        if numbers is not None and self.original is not None:
            self.original = keep_classes(self.original, numbers)  # so that it can teach the model still
        return self.statistics

    def load_statistics(self, path: str | Path) -> CalibrationStatistics:
        """Takes statistics that were saved before, so that another plan costs no second pass.

        Raises:
            ValueError: If the file holds no statistics, those of another model, or values that sums cannot have.
        """
        statistics = CalibrationStatistics.load(path, describe(self.model))
        if statistics.fingerprint not in (model_fingerprint(self.model), fingerprint_of_version_0_1(self.model)):
            raise ValueError(f"The statistics in {path} are those of another model. Call calibrate with this one.")
        statistics.fingerprint = model_fingerprint(self.model)
        self.statistics, self.calibration_images = statistics, None
        return statistics

    def _numbers_of(self, classes: Sequence[str | int]) -> list[int]:
        """The numbers of classes that the model is to keep."""
        if not has_classifier(self.model):
            raise TypeError(f"{type(self.model).__name__} has no classifier, so it cannot be pruned for classes.")
        if problem_type(self.model.config) == REGRESSION:
            raise TypeError("The model predicts numbers (problem_type 'regression'), so there are no classes to keep.")
        return ModelClasses.of(self.model.config).numbers_of_some(classes)

    def _choose_images(self, dataset: Any, num_samples: int, **options: Any) -> CalibrationImages:
        return choose_images(
            self.model, dataset, num_samples=num_samples, image_processor=self.image_processor, **options
        )

    def plan(self, config: SNPConfig) -> PruningPlan:
        """Decides sizes and kept neurons of every block; `print(plan)` shows a table.

        One process decides, all get the same plan. That of a model which was pruned before records both steps.

        Raises:
            TypeError: If `config` is no [`SNPConfig`].
            ValueError: If the model is not calibrated, or has changed since, lists of the config do not fit it, or a
                budget cannot be reached (the message names the least share that can).
        """
        if not isinstance(config, SNPConfig):
            raise TypeError(f"plan takes an SNPConfig, got {type(config).__name__}.")
        if self.statistics is None:
            raise ValueError("The model is not calibrated. Call calibrate(dataset) or load_statistics(path) first.")
        statistics = self._check_unchanged(self.statistics)
        to_reconstruct_on = self._images_to_reconstruct_on(config, None)
        plan = decide_together(self.model, statistics, config, self.calibration_images, to_reconstruct_on)
        plan.previous = self.pruning_plan
        return plan

    def prune(self, plan: PruningPlan | SNPConfig, *, calibration_dataset: Any = None) -> SNPModel:
        """Builds the smaller model, which becomes `pruner.model`.

        Args:
            plan ([`PruningPlan`] or [`SNPConfig`]):
                A plan for this model, or a config to make one from.
            calibration_dataset (*optional*):
                Images to calibrate on, `config.num_calibration_samples` of them; with a plan, to reconstruct on. Not
                needed when the model was calibrated by this pruner.

        Returns:
            The pruned model, in eval mode.

        Raises:
            TypeError: If `plan` is neither.
            ValueError: If the plan was made for a model of other sizes, its method needs statistics and the model is
                not calibrated, or it asks for a reconstruction and there are no images; with a config as `calibrate`
                and `plan`.
        """
        self._check_images(plan, calibration_dataset)
        if isinstance(plan, SNPConfig):
            check_fits(plan, self.model)
            if calibration_dataset is not None:
                self.calibrate(
                    calibration_dataset,
                    plan.num_calibration_samples,
                    seed=plan.seed,
                    moments=plan.method != "snp" or plan.budget is not None,
                    sensitivities=plan.budget is not None,
                )
            plan = self.plan(plan)
        if not isinstance(plan, PruningPlan):
            raise TypeError(f"prune takes a PruningPlan or an SNPConfig, got {type(plan).__name__}.")
        if self.statistics is not None:
            self._check_unchanged(self.statistics)
            if method_of(plan.config).refits and process_state().is_main_process:
                warn_of_few_images(plan, self.statistics)
        images = self._images_to_reconstruct_on(plan.config, calibration_dataset)
        plan.reconstruction_images = plan.reconstruction_copies = batches = None
        if images:
            plan.reconstruction_images = len(images)
            plan.reconstruction_copies = num_copies(plan.config.reconstruction_copies, len(images), self.model.config)
            batches = images.batches(plan.reconstruction_copies, plan.config.seed)
        pruned = build_pruned(self.model, plan, self.statistics, batches)
        self.measurements = self.measurements.after_pruning(
            model_fingerprint(self.model), model_fingerprint(pruned), self.statistics
        )
        self.original = self.original or self.model
        self.model, self.pruning_plan, self._shares_model = pruned, plan, False
        self.statistics = self.calibration_images = None  # of the model before
        self.layout = plan.config.layout
        return self.model

    def _check_unchanged(self, statistics: CalibrationStatistics) -> CalibrationStatistics:
        if statistics.fingerprint != model_fingerprint(self.model):
            raise ValueError(
                "The model has changed since it was calibrated: its weights, or what its config says of its function. "
                "Call calibrate(dataset) again."
            )
        return statistics

    def _check_images(self, plan: PruningPlan | SNPConfig, dataset: Any) -> None:
        config = getattr(plan, "config", plan)
        options = ("reconstruction", "reconstruction_copies")
        asked = [f"{name}={getattr(config, name)}" for name in options if getattr(config, name, None)]
        if asked and self.calibration_images is None and dataset is None:
            raise ValueError(
                f"{' and '.join(asked)} refits on images, and this pruner has none. Pass calibration_dataset=, call "
                "calibrate(dataset), or leave it out for the closed form alone."
            )

    def _images_to_reconstruct_on(self, config: SNPConfig, dataset: Any) -> CalibrationImages | None:
        """The images, if the blocks of the pruned model are to be refitted on them."""
        images = self.calibration_images
        if not config.reconstructs:
            return None
        if images is None and dataset is not None:
            images = self._choose_images(dataset, config.num_calibration_samples, seed=config.seed)
        return images

    def recover(
        self,
        images: Any,
        minutes: float = 5.0,
        *,
        num_samples: int = 1024,
        batch_size: int = 32,
        learning_rate: float | None = None,
        teacher: str | Path | PreTrainedModel | None = None,
        output_dir: str | Path = "recovery_output",
        seed: int = 42,
        image_column: str | None = None,
        skip_unreadable: bool = False,
        resume: bool = False,
        **training_options: Any,
    ) -> Recovery:
        """Trains the pruned model for some minutes on unlabelled images, so that it comes closer to the dense one.

        What is learned are the dense model's logits and final features, or its features alone where it has no
        classifier. The learning rate is found by a few trial steps. Images that are held back choose the best state
        along the way: the model is never left further from the dense one than it was.

        Args:
            images:
                Unlabelled images of the kinds that `calibrate` takes.
            minutes (`float`, *optional*, defaults to 5.0):
                For trials and training together, beside one pass of the dense model over the images.
            num_samples (`int`, *optional*, defaults to 1024):
                Images to use, chosen at random by `seed`. The last 32 to 128 are held back, of few half. Take so many
                more than `calibrate` got: from one data set with one seed, those that are held back are then none that
                the model was calibrated on, on which a reconstruction looks better than it is.
            batch_size (`int`, *optional*, defaults to 32):
                Images per step and device.
            learning_rate (`float`, *optional*):
                The peak of the schedule, instead of trials; relative to the root mean square of each weight.
            teacher (`str`, `Path` or `PreTrainedModel`, *optional*):
                The dense model. Defaults to the model as it was before this pruner first pruned it.
            output_dir (`str` or `Path`, *optional*, defaults to `"recovery_output"`):
                For checkpoints.
            seed (`int`, *optional*, defaults to 42):
                Of the choice of images and their order.
            image_column (`str`, *optional*):
                The column of images, where their feature type does not tell.
            skip_unreadable (`bool`, *optional*, defaults to `False`):
                Whether other images take the place of those that cannot be read, which are named.
            resume (`bool`, *optional*, defaults to `False`):
                Whether to go on from the last checkpoint in `output_dir`, as long as there is one.
            training_options:
                Further fields of `TrainingArguments`, such as `bf16=True`.

        Returns:
            [`Recovery`]: What it did, with the loss and the agreement with the dense model before and after.

        Raises:
            TypeError: If a dataset or the teacher is of no supported kind.
            ValueError: If there is no dense model to learn from, it does not fit, or there are too few images.
        """
        dense = self._teacher_of_its_own() if teacher is None else self._load_dense(teacher)
        chosen = self._choose_images(
            images,
            num_samples,
            batch_size=batch_size,
            seed=seed,
            image_column=image_column,
            skip_unreadable=skip_unreadable,
        )
        if self._shares_model:
            self.model, self._shares_model = copy.deepcopy(self.model), False  # training changes it in place
        before, weights = self.measurements, model_fingerprint(self.model)
        self.measurements = before.after_training(weights)  # for the checkpoints
        with put_back(self.model):
            recovery = recover(
                self.model,
                dense,
                chosen,
                minutes=minutes,
                output_dir=output_dir,
                learning_rate=learning_rate,
                seed=seed,
                resume=resume,
                write_history=lambda folder: write_history(folder, self.record),
                **training_options,
            )
        if model_fingerprint(self.model) == weights:
            self.measurements = before
        self.statistics = self.calibration_images = None  # of the weights before training
        return recovery

    def _load_dense(self, teacher: str | Path | PreTrainedModel) -> SNPModel:
        """A model to recover from, in our architecture."""
        dense = convert(load_source(teacher) if isinstance(teacher, (str, Path)) else teacher)
        number_names(dense.config)
        names = [*self.model.config.label2id]
        # A model that was pruned for some of the classes of the dense one. Numbers in place of names cannot tell.
        is_part = has_classifier(dense) and set(names) < set(dense.config.label2id)
        if is_part and ModelClasses.of(self.model.config).named:
            dense = keep_classes(dense, [dense.config.label2id[name] for name in names])
        if type(dense) is not type(self.model) or dense.config.num_labels != self.model.config.num_labels:
            raise ValueError(
                f"The teacher is a {type(dense).__name__} with {dense.config.num_labels} labels, the model a "
                f"{type(self.model).__name__} with {self.model.config.num_labels}. Name the model that it was pruned "
                "from."
            )
        return dense

    def finetune(
        self,
        train_dataset: Any,
        eval_dataset: Any = None,
        args: TrainingArguments | None = None,
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        label_map: LabelMap | None = None,
        num_workers: int | None = None,
        skip_unreadable: bool = False,
        recipe: Recipe | str | None = None,
        distillation: DistillationConfig | None = None,
        teacher: str | Path | PreTrainedModel | None = None,
        peft_config: "PeftConfig | None" = None,
        resume_from_checkpoint: str | Path | bool | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **trainer_options: Any,
    ) -> TrainOutput:
        """Trains the model at its present stage with [`~transformers.Trainer`], if asked with a teacher.

        Args:
            train_dataset, eval_dataset:
                Labelled datasets of the kinds that `calibrate` takes; to evaluate on, also several by name. A model
                without names for its classes takes those of the training set.
            args (`TrainingArguments`, *optional*):
                As for the Trainer; by default the recipe's. What `report_to` names also gets plan, budget and
                measurements into the config of its run. With `push_to_hub=True` the model is pushed at the end as
                [`SNPPruner.push_to_hub`] does it, to the repository, branch and with the token that they name.
            image_column, label_column (`str`, *optional*):
                The columns, where their feature types do not tell.
            label_map (`dict`, *optional*):
                Which classes of the model those of the datasets are, where names do not tell: `{"name in the dataset":
                "name in the model"}`. Without, classes that cannot be told by name are refused; see docs/data.md.
            num_workers (`int`, *optional*):
                Processes that decode images; by default `args.dataloader_num_workers`, or a number that suits the
                dataset.
            skip_unreadable (`bool`, *optional*, defaults to `False`):
                Whether images that cannot be read are left out, and named. All are decoded once for that.
            recipe ([`Recipe`] or `str`, *optional*):
                Random changes of the images, mixing, stochastic depth and an average of the weights to train by, or
                the name of such a recipe, `"deit-20"` or `"deit-300"`. Its schedule comes with
                `args=recipe.training_arguments(...)`; other `args` keep theirs.
            distillation ([`DistillationConfig`], *optional*):
                Lets the model learn from a teacher, too.
            teacher (`str`, `Path` or `PreTrainedModel`, *optional*):
                Any image classifier of transformers with the same labels, by name or loaded; given alone it teaches
                by the defaults of [`DistillationConfig`]. Defaults to the model as it was before this pruner first
                pruned it. A teacher by name must prepare images as `image_processor` does; of a loaded one the caller
                sees to that.
            peft_config (`PeftConfig`, *optional*):
                Trains adapters of the PEFT library, such as LoRA, and merges them into the model at the end.
                Checkpoints then hold the adapters alone.
            resume_from_checkpoint (`str`, `Path` or `bool`, *optional*):
                A checkpoint to go on from, or `True` for the last one that was written to the end; as long as there is
                none, `True` starts from the beginning. The result is that of a training without the break.
            callbacks (`list[TrainerCallback]`, *optional*):
                Further callbacks of the Trainer.
            trainer_options:
                Further arguments of the Trainer, such as `data_collator`.

        Returns:
            `TrainOutput`: As `Trainer.train` gives it.

        Raises:
            TypeError: If the model has no classifier, or the teacher is neither name nor model.
            ValueError: For a dataset, a teacher or a checkpoint that cannot be used, arguments that train nothing, or
                a training that diverged: its weights, which are worth nothing, are then those of the pruner.
            ValueError, PermissionError, ConnectionError, OSError: As [`SNPPruner.push_to_hub`], before training if
                that can tell.
        """
        if teacher is not None:
            distillation = distillation or DistillationConfig()
        elif distillation is not None:
            teacher = self._teacher_of_its_own()
        recipe = Recipe.from_preset(recipe) if isinstance(recipe, str) else recipe
        if args is None:
            options = {"output_dir": "trainer_output", "use_cpu": process_state().device.type == "cpu"}
            args = recipe.training_arguments(**options) if recipe is not None else TrainingArguments(**options)
        if args.max_steps <= 0 and args.num_train_epochs <= 0:
            raise ValueError(f"num_train_epochs must be above 0 to train anything, got {args.num_train_epochs}.")
        checkpoint = run_on_main_process(lambda: checkpoint_to_resume(args.output_dir, resume_from_checkpoint))
        push = prepare_push_of_training(args) if args.push_to_hub else None
        if self._shares_model:
            self.model, self._shares_model = copy.deepcopy(self.model), False  # training changes it in place
        trainer = build_trainer(
            self.model,
            args,
            train_dataset,
            eval_dataset,
            image_processor=self.image_processor,
            image_column=image_column,
            label_column=label_column,
            label_map=label_map,
            num_workers=num_workers,
            skip_unreadable=skip_unreadable,
            recipe=recipe,
            distillation=distillation,
            teacher=teacher,
            peft_config=peft_config,
            callbacks=callbacks,
            write_history=lambda folder: write_history(folder, self.record),
            facts=self.record.facts(),
            **trainer_options,
        )
        before, weights = self.measurements, model_fingerprint(self.model)
        self.measurements = before.after_training(weights)  # for the checkpoints
        device, is_split = self.model.device, trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
        with contextlib.nullcontext() if is_split else put_back(self.model):
            output = trainer.train(resume_from_checkpoint=checkpoint)
            trainer.check_weights()
        self.model = trained_model(trainer, self.model).to(device)
        if model_fingerprint(self.model) == weights:
            self.measurements = before
            logger.warning("The training changed no weight, so that the model counts as not fine-tuned.")
        self.statistics = self.calibration_images = None  # of the weights before training
        if push is not None:
            self.push_to_hub(commit_message="End of training", **push)
        return output

    def _teacher_of_its_own(self) -> SNPModel:
        if self.original is None:
            raise ValueError(
                "This pruner did not prune the model, so the one that it came from is not at hand to teach it. Name a "
                "teacher: teacher= a folder, a Hub id or a loaded model."
            )
        return self.original

    def evaluate(
        self,
        eval_dataset: Any,
        *,
        batch_size: int = 32,
        image_column: str | None = None,
        label_column: str | None = None,
        label_map: LabelMap | None = None,
        num_workers: int | None = None,
        skip_unreadable: bool = False,
        dataset_name: str | None = None,
    ) -> dict[str, float]:
        """Top-1 and top-5 accuracy of the model at its present stage. The card of the model will state them.

        A model for another `problem_type` is measured by `f1_micro`, `f1_macro` and `mean_average_precision`
        (`"multi_label_classification"`) or `mse` and `r2` (`"regression"`), which its card does not state.

        Args:
            eval_dataset:
                A labelled dataset of the kinds that `calibrate` takes. A folder must be that of one split.
            batch_size (`int`, *optional*, defaults to 32):
                Images per forward pass and device.
            image_column, label_column (`str`, *optional*):
                The columns, where their feature types do not tell.
            label_map (`dict`, *optional*):
                Which classes of the model those of the datasets are, where names do not tell: `{"name in the dataset":
                "name in the model"}`. Without, classes that cannot be told by name are refused; see docs/data.md.
            num_workers (`int`, *optional*):
                Processes that decode images; by default a number that suits the dataset.
            skip_unreadable (`bool`, *optional*, defaults to `False`):
                Whether images that cannot be read are left out, and named. All are decoded once for that.
            dataset_name (`str`, *optional*):
                What the card calls the data set. Defaults to its name on the Hub or that of the folder.

        Returns:
            `dict[str, float]`: `accuracy` and `top5_accuracy`, shares in [0, 1], or the metrics of the problem.

        Raises:
            TypeError: If the model has no classifier.
            ValueError: For a dataset that cannot be used.
        """
        return record_accuracy(
            self.record,
            eval_dataset,
            batch_size=batch_size,
            image_column=image_column,
            label_column=label_column,
            label_map=label_map,
            num_workers=num_workers,
            skip_unreadable=skip_unreadable,
            dataset_name=dataset_name,
        )

    def evaluate_zero_shot(
        self,
        eval_dataset: Any,
        classes: Sequence[str],
        texts: Sequence[str] | Mapping[str, torch.Tensor] | torch.Tensor,
        *,
        batch_size: int = 32,
        image_column: str | None = None,
        label_column: str | None = None,
        label_map: LabelMap | None = None,
        num_workers: int | None = None,
        skip_unreadable: bool = False,
        dataset_name: str | None = None,
    ) -> dict[str, float]:
        """Accuracy of a model of images and texts, or of its vision tower, at naming what is in images.

        An image is taken for the class whose texts its embedding has the smallest angle to. The card of the model will
        state it.

        Args:
            eval_dataset, image_column, label_column, label_map, num_workers, skip_unreadable, dataset_name:
                See [`SNPPruner.evaluate`].
            classes (`Sequence[str]`):
                The names of the classes; labels of the data set are matched with them.
            texts (`Sequence[str]`, `Mapping[str, torch.Tensor]` or `torch.Tensor`):
                A text for every class, which the tokenizer that came with the model reads, what a tokenizer makes of
                them (`input_ids`, `attention_mask`), or their embeddings `[texts, size]`; in the order of `classes`,
                and of several per class, those of one beside each other, whose mean counts.
            batch_size (`int`, *optional*, defaults to 32):
                Images per forward pass and device.

        Returns:
            `dict[str, float]`: `accuracy` and `top5_accuracy`, shares in [0, 1].

        Raises:
            TypeError: If the model does not embed images, or has no text tower for tokens or tokenizer for texts.
            ValueError: For a dataset or texts that cannot be used.

        Example:

        ```python
        >>> pruner.evaluate_zero_shot("images/test", classes, [f"a photo of a {name}" for name in classes])
        ```
        """
        return record_zero_shot(
            self.record,
            eval_dataset,
            classes,
            texts,
            batch_size=batch_size,
            image_column=image_column,
            label_column=label_column,
            label_map=label_map,
            num_workers=num_workers,
            skip_unreadable=skip_unreadable,
            dataset_name=dataset_name,
        )

    def measure_latency(
        self,
        original: str | Path | PreTrainedModel | None = None,
        *,
        batch_size: int = 1,
        num_runs: int = 50,
    ) -> dict[str, float]:
        """The median time of a forward pass on random images, on the device of the model.

        The card of the model will state it, with machine and settings.

        Args:
            original (`str`, `Path` or `PreTrainedModel`, *optional*):
                The dense model that this one was pruned from, measured in turn with it.
            batch_size (`int`, *optional*, defaults to 1):
                Images per pass.
            num_runs (`int`, *optional*, defaults to 50):
                Timed passes of each model.

        Returns:
            `dict[str, float]`: Seconds per pass as `"model"`, and as `"original"` with one.

        Raises:
            ValueError: If `original` is not what this model was pruned from, or a number is below 1.
        """
        return record_latency(self.record, original, batch_size=batch_size, num_runs=num_runs)

    def save_pretrained(
        self, save_directory: str | Path, *, layout: str | None = None, overwrite: bool = False, **options: Any
    ) -> None:
        """Saves weights, config, modeling code, image processor, recipe, plan, measurements and card into one folder.

        The folder loads with `AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)` where
        this package is not installed; with `layout="native"` without remote code. It gets there in one step: whatever
        ends the process meanwhile leaves the old folder or the new one.

        Args:
            save_directory (`str` or `Path`):
                The folder, a new or an empty one.
            layout (`str`, *optional*):
                `"snp"` saves a model of this package with its code, `"native"` an ordinary checkpoint of transformers,
                for which all blocks have one number of heads, one size of heads and one MLP size
                (docs/plain-checkpoints.md). Defaults to `layout` of this pruner.
            overwrite (`bool`, *optional*, defaults to `False`):
                Whether a model may be replaced that this library saved in the folder before. Other files in it are
                kept, and so is what a person wrote into its card.
            options:
                For `save_pretrained` of the model, such as `max_shard_size`.

        Raises:
            TypeError: For `push_to_hub`: the method of that name pushes.
            ValueError: If the path is a file, is the working directory, or cannot be written; if the folder holds
                anything and `overwrite` is `False`, or this library did not write it; if weights are NaN or infinite;
                or if the model does not fit the layout (the message names block and field).
        """
        if "push_to_hub" in options:
            raise TypeError("save_pretrained does not push. Call push_to_hub(repo_id), with or without saving.")
        save_model(self.record, save_directory, layout=layout, overwrite=overwrite, **options)

    def export(
        self,
        save_directory: str | Path,
        *,
        format: str = "onnx",
        dtype: str = "fp32",
        calibration_dataset: Any = None,
        num_samples: int = 64,
        seed: int = 42,
        image_column: str | None = None,
        skip_unreadable: bool = False,
        opset: int | None = None,
        overwrite: bool = False,
    ) -> ExportedModel:
        """Writes the model for ONNX Runtime or OpenVINO, for any number of images of the configured size.

        What is written is run and compared with PyTorch before the folder appears. It holds `model.onnx` or
        `openvino_model.xml` and `.bin`, `config.json` with the labels, the image processor's settings, and
        `snp_export.json` with what was found.

        Args:
            save_directory (`str` or `Path`):
                A new or an empty folder.
            format (`str`, *optional*, defaults to `"onnx"`):
                `"onnx"` or `"openvino"`.
            dtype (`str`, *optional*, defaults to `"fp32"`):
                `"fp32"`, `"fp16"` (OpenVINO: of the weights) or `"int8"` (linear layers). Input and outputs are always
                float32.
            calibration_dataset (*optional*):
                Unlabelled images of the kinds that `calibrate` takes: int8 takes ranges from them, and all are
                compared on them. Without, random images are compared.
            num_samples (`int`, *optional*, defaults to 64):
                How many of them, chosen at random by `seed`.
            seed (`int`, *optional*, defaults to 42):
                Of the choice.
            image_column (`str`, *optional*):
                The column of images, where their feature type does not tell.
            skip_unreadable (`bool`, *optional*, defaults to `False`):
                Whether other images take the place of those that cannot be read, which are named.
            opset (`int`, *optional*):
                Version of ONNX's operators; by default that of PyTorch's exporter.
            overwrite (`bool`, *optional*, defaults to `False`):
                Whether an earlier export in the folder may be replaced.

        Returns:
            [`ExportedModel`]: What `snp_export.json` says, with the largest difference from PyTorch.

        Raises:
            ImportError: If a package is missing; the message says how to get it.
            TypeError: For a dataset of no supported kind, or an `opset` that is no integer.
            ValueError: For another format or dtype, int8 without images, a folder that holds something else, a dataset
                that cannot be used, or if the outputs differ from PyTorch's by more than they may.
        """
        return run_on_main_process(
            lambda: export_model(
                self.model,
                save_directory,
                format=format,
                dtype=dtype,
                image_processor=self.image_processor,
                calibration_dataset=calibration_dataset,
                num_samples=num_samples,
                seed=seed,
                image_column=image_column,
                skip_unreadable=skip_unreadable,
                opset=opset,
                overwrite=overwrite,
            )
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        tags: list[str] | None = None,
        layout: str | None = None,
        **options: Any,
    ) -> str:
        """Pushes all files that `save_pretrained` writes to the Hub, in one commit.

        The commit also takes away the files of a model that was there before, such as other shards; a person's own
        files, and what they wrote into the card, stay. Nothing of a push that fails can be seen, but a repository or
        branch that had to be made for it stays, the one empty, the other as a copy of `main`.

        Args:
            repo_id (`str`):
                The repository, `"namespace/name"`, or `"name"` for one of yours. It is made if need be.
            commit_message (`str`, *optional*, defaults to `"Upload model"`):
                What the commit says.
            private (`bool`, *optional*):
                Whether a repository that is made is private; by default as your account says.
            token (`str` or `bool`, *optional*):
                A token of the Hub that may write; by default the one that you logged in with.
            revision (`str`, *optional*, defaults to `"main"`):
                The branch. It is made from `main` if need be.
            create_pr (`bool`, *optional*, defaults to `False`):
                Whether to open a pull request instead, which needs no right to write to the repository.
            tags (`list[str]`, *optional*):
                Further tags for the card.
            layout (`str`, *optional*):
                As for `save_pretrained`.
            options:
                For `save_pretrained` of the model, such as `max_shard_size`.

        Returns:
            `str`: The URL of the commit; as a [`~huggingface_hub.CommitInfo`] it knows that of the pull request, too.

        Raises:
            TypeError: If `tags` is no list.
            ValueError: If the id or the token is malformed, `revision` is a commit, a repository that is to be private
                is public already, there is nothing to open a pull request on, or the model does not fit the layout.
            PermissionError: If there is no token, the Hub does not know it, or it may not write there.
            ConnectionError: If the Hub cannot be reached or breaks off.
            OSError: If somebody else commits at the same time, or the Hub refuses the push for another reason.
        """
        return run_on_main_process(
            lambda: push_model(
                self.record,
                repo_id,
                commit_message=commit_message,
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
                tags=tags,
                layout=layout,
                **options,
            )
        )
