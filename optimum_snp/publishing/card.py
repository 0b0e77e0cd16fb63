"""The model card: README.md with its pictures, in the folder of a saved model.

The template is `model_cards/template.md`. What stands between its two markers is written anew each time; what a
person wrote around it stays.
"""

import logging
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import validate_repo_id

from ..calibration import model_fingerprint
from ..configuration import NATIVE_LAYOUT, SNP_LAYOUT
from ..drawing import can_draw
from ..families import family_of_model
from ..file_names import CARD_NAME
from ..models import has_classifier
from ..plan.plan import PROJECTED, PruningPlan
from ..record import ModelRecord
from ..record.measurements import FINE_TUNED, Accuracy, Measurements
from ..record.origin import LICENSE_FIELDS, split_card
from ..structure import input_name, input_shape, reads_sounds
from .pictures import draw_pictures
from .tables import block_heading, block_rows, format_counts, number_table, plain, token_change, width_change


logger = logging.getLogger(__name__)

PICTURES_FOLDER = "pictures"

BEGIN = "<!-- optimum-snp: this part is written anew with every save. Write above or below it. -->"
END = "<!-- optimum-snp: end of the part that is written anew. -->"

# In a wheel the template lies beside this file; in a checkout in a folder of its own.
_TEMPLATES = (Path(__file__).with_name("template.md"), Path(__file__).parents[2] / "model_cards" / "template.md")

_TAGS = ["pruned", "snp", "structured-pruning"]
# Metadata that only says what was measured or built here; of all other fields a person's value wins.
_OURS = ("library_name", "pipeline_tag", "model-index", "model_name")
# Those belong to the source: when a model from another one takes the place of the one before, they go with it.
_OF_SOURCE = ("base_model", *LICENSE_FIELDS)
_LISTS = ("tags", "datasets", "metrics")

_METHODS = {
    "snp": "SNP, as in the paper: query/key neurons are kept by how well they align with the leading singular "
    "directions of the attention scores, value and MLP neurons by how little they repeat others.",
    "snp-refit": "SNP's neurons are kept, and what reads them was fitted to the dense outputs by least squares.",
    "projection": "Instead of neurons, the leading directions of queries, keys and values are kept; MLP neurons are "
    "those that others make up for least, and what reads them was fitted by least squares. All in closed form, "
    "without gradients.",
}

_ZERO_SHOT = "AutoModelForZeroShotImageClassification"
# The pipeline tags of models without a classifier.
_FEATURES = {"image": "image-feature-extraction", "audio": "feature-extraction"}

# By the auto class of the model: how its output is read.
_USES = {
    _ZERO_SHOT: "outputs.image_embeds.shape",  # with input_ids of texts beside the images there are scores
    "AutoModelForAudioClassification": "model.config.id2label[outputs.logits.argmax(-1)[0].item()]",
    "AutoModelForImageClassification": "model.config.id2label[outputs.logits.argmax(-1)[0].item()]",
    "AutoModel": "outputs.last_hidden_state.shape",
    "AutoBackbone": "[feature_map.shape for feature_map in outputs.feature_maps]",
}

_IMAGE_USAGE = """\
import torch
from PIL import Image
from transformers import AutoImageProcessor, {auto_class}

name = {name}
processor = AutoImageProcessor.from_pretrained(name)
model = {auto_class}.from_pretrained(name{remote_code}).eval()

image = Image.open("image.png").convert("{mode}")
with torch.inference_mode():
    outputs = model(**processor(image, return_tensors="pt"))
print({result})"""

_SOUND_USAGE = """\
import numpy as np
import torch
from transformers import AutoFeatureExtractor, {auto_class}

name = {name}
extractor = AutoFeatureExtractor.from_pretrained(name)
model = {auto_class}.from_pretrained(name{remote_code}).eval()

samples = np.zeros(extractor.sampling_rate, dtype=np.float32)  # your sound, one channel at this rate
with torch.inference_mode():
    outputs = model(**extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="pt"))
print({result})"""

# By the number of channels: how Pillow calls such images.
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}

_PIXEL_USAGE = """\
import torch
from transformers import {auto_class}

name = {name}
model = {auto_class}.from_pretrained(name{remote_code}).eval()

{input} = torch.zeros({shape})  # your {kind}
with torch.inference_mode():
    outputs = model({input})
print({result})"""


def write_card(
    folder: str | Path,
    record: ModelRecord,
    *,
    layout: str = SNP_LAYOUT,
    repo_id: str | None = None,
    previous: str | None = None,
    weights: str | None = None,
) -> None:
    """Writes `README.md` and `pictures/*.png` into the folder of a saved model.

    A number stands in the card only if it was measured on these weights, or follows from their sizes.

    Args:
        folder (`str` or `Path`):
            The folder.
        record ([`ModelRecord`]):
            Of the model that is saved there.
        layout (`str`, *optional*, defaults to `"snp"`):
            What it is saved as; it decides how it is loaded.
        repo_id (`str`, *optional*):
            Where the model is pushed to; the card then shows how to load it from there.
        previous (`str`, *optional*):
            The card that this one replaces. What a person wrote around the generated part stays, and so do
            the fields of the metadata that a person may set, such as `license`, `language` and further tags.
        weights (`str`, *optional*):
            [`~optimum_snp.calibration.model_fingerprint`] of the model, where that is known already.
    """
    folder = Path(folder)
    plan = record.plan
    weights = weights or model_fingerprint(record.model)
    measurements = record.measurements.of_weights(weights)
    present = [number for number in measurements.accuracies if number.stage == measurements.stage]
    title = repo_id.split("/")[-1] if repo_id else f"Pruned {_family(record)}" if plan else _family(record)
    pictures = draw_pictures(folder / PICTURES_FOLDER, plan, measurements) if plan and can_draw() else []
    card = ModelCard.from_template(
        _metadata(record, present, repo_id, title),
        template_path=str(next(path for path in _TEMPLATES if path.is_file())),
        begin_marker=BEGIN,
        end_marker=END,
        title=title,
        repo_id=repo_id,
        name=f'"{repo_id or "."}"',
        usage=_usage(record, repo_id or ".", layout),
        native_version=family_of_model(record.model.config).native_version_of(record.model.config)
        if layout == NATIVE_LAYOUT
        else None,
        pictures=pictures,
        limits=_limits(record, measurements, present, weights),
        is_backbone=record.model._auto_class == "AutoBackbone",
        source=_source(record, repo_id),
        numbers=number_table(plan, measurements, record.model.dtype),
        **(_pruning(plan, measurements) if plan else {}),
    )
    if previous:
        card = _merge(card, previous)
    card.save(folder / CARD_NAME)


def _metadata(record: ModelRecord, present: list[Accuracy], repo_id: str | None, title: str) -> ModelCardData:
    kind = "audio" if reads_sounds(record.model.config) else "image"
    task = f"{kind}-classification" if has_classifier(record.model) else _FEATURES[kind]
    if _scores_texts(record):
        task = "zero-shot-image-classification"
    results = [
        EvalResult(
            task_type=task,
            dataset_type=number.dataset_id or "-".join(number.dataset.lower().split()),
            dataset_name=number.dataset,
            dataset_split=number.split,
            metric_type="accuracy",
            metric_name=name,
            metric_value=round(value, 6),
        )
        for number in present
        if number.dataset
        for name, value in (("Top-1 accuracy", number.accuracy), ("Top-5 accuracy", number.top5_accuracy))
    ]
    return ModelCardData(
        **record.origin.license,
        library_name="transformers",
        pipeline_tag=task,
        base_model=record.origin.base_of(repo_id),
        tags=[*(_TAGS if record.plan else _TAGS[1:2]), _family(record).lower()],
        datasets=sorted({number.dataset_id for number in present if number.dataset_id}) or None,
        metrics=["accuracy"] if present else None,
        model_name=title if results else None,
        eval_results=results or None,
    )


def _family(record: ModelRecord) -> str:
    config = record.model.config
    names = f"{config._name_or_path} {record.origin.name} {record.origin.base_model}"
    return family_of_model(config).title_of(config, names)


def _source(record: ModelRecord, repo_id: str | None) -> str:
    base = record.origin.base_of(repo_id)
    if not isinstance(base, str):
        return f"A {_family(record)}"
    try:
        validate_repo_id(base)
    except HFValidationError:  # what the card of a source calls its base can be any text
        return plain(base)
    return f"[{base}](https://huggingface.co/{base})"


def _pruning(plan: PruningPlan, measurements: Measurements) -> dict[str, Any]:
    first = plan.steps[0]
    return {
        "share_of_flops": f"{plan.macs_after / first.macs_before:.0%}",
        "share_of_parameters": f"{plan.parameters_after / first.parameters_before:.0%}",
        "steps": [
            f"Method `{step.config.method}`, FLOPs from "
            f"{' to '.join(format_counts([step.macs_before, step.macs_after]))}. {_METHODS[step.config.method]}"
            f"{_reconstruction(step)}"
            for step in plan.steps
        ],
        "calibration_images": measurements.calibration_images,
        "blocks": block_rows(plan),
        "block_heading": block_heading(plan),
        "width": width_change(plan),
        "tokens": token_change(plan),
    }


def _reconstruction(step: PruningPlan) -> str:
    if step.reconstruction_images is None:
        return ""
    copies = step.reconstruction_copies
    images = f"{step.reconstruction_images} unlabelled images"
    if copies:
        images += f" and {copies} shifted or mirrored {'copy' if copies == 1 else 'copies'} of each"
    return (
        f" Then every block was refitted, the first one first, to what the pruned network lacked of the dense one on "
        f"{images}."
    )


def _scores_texts(record: ModelRecord) -> bool:
    """Whether the model is one of images and texts."""
    return _ZERO_SHOT in (getattr(record.model.config, "auto_map", None) or {})


def _usage(record: ModelRecord, name: str, layout: str) -> str:
    config = record.model.config
    auto_class = record.model._auto_class
    sounds = reads_sounds(config)
    if record.image_processor is None or not (sounds or config.num_channels in _MODES):
        usage = _PIXEL_USAGE
    else:
        usage = _SOUND_USAGE if sounds else _IMAGE_USAGE
    return usage.format(
        auto_class=auto_class,
        mode=_MODES.get(config.num_channels),
        name=f'"{name}"',
        remote_code="" if layout == NATIVE_LAYOUT else ", trust_remote_code=True",
        result=_USES[_ZERO_SHOT if _scores_texts(record) else auto_class],
        input=input_name(config),
        kind="spectrograms" if sounds else "images",
        shape=", ".join(map(str, (1, *input_shape(config)))),
    )


def _limits(record: ModelRecord, measurements: Measurements, present: list[Accuracy], weights: str) -> list[str]:
    plan = record.plan
    limits = []
    if not present and has_classifier(record.model):
        limits.append(
            "The accuracy of these weights was not measured. Measure it on your own data before you rely on it."
        )
    elif any(number.texts for number in present):
        limits.append("The accuracies hold for the data, the classes and the texts that they were measured with.")
    elif present:
        limits.append("The accuracies hold for the data they were measured on, and for no other.")
    if plan and measurements.stage.name != FINE_TUNED and measurements.pruned_weights == weights:
        limits.append(
            "It was not fine-tuned after pruning."
            + (" Without that, the accuracy of method `snp` falls fast." if plan.config.method == "snp" else "")
        )
    if (
        plan
        and not has_classifier(record.model)
        and any(width.kept == PROJECTED for step in plan.steps for width in step.widths)
    ):
        limits.append("`last_hidden_state` is rotated against that of the source model, and so are all hidden states.")
    limits.append("What the source model was trained on, its biases and its license carry over.")
    return limits


def _merge(card: ModelCard, previous: str) -> ModelCard:
    """The new card with what a person wrote in the one before."""
    try:
        theirs, old_text = split_card(previous)
    except ValueError as error:
        logger.warning(f"The metadata of the card before are replaced. {error}")
        theirs, old_text = {}, REGEX_YAML_BLOCK.sub("", previous)
    metadata = card.data.to_dict()
    bases = theirs.get("base_model"), metadata.get("base_model")
    ours = (*_OURS, *(_OF_SOURCE if all(bases) and bases[0] != bases[1] else ()))
    for key, value in theirs.items():
        if key in _LISTS:
            metadata[key] = _union(metadata.get(key), value)
        elif key not in ours:
            metadata[key] = value
    generated = card.text[card.text.index(BEGIN) : card.text.index(END) + len(END)]
    start, end = old_text.find(BEGIN), old_text.find(END)
    if 0 <= start < end:
        text = old_text[:start] + generated + old_text[end + len(END) :]
    else:
        text = f"{old_text.replace(BEGIN, '').replace(END, '').rstrip()}\n\n{generated}\n"
    card.data, card.text = ModelCardData(**metadata), text
    return card


def _union(*values: Any) -> list:
    """What is in one of several fields, each a list, one value or `None`; values need not be hashable."""
    united: list = []
    for value in values:
        for item in value if isinstance(value, list) else [value]:
            if item is not None and item not in united:
                united.append(item)
    return united
