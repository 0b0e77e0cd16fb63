"""What is special in SigLIP: no class token, and a pooling head that stays whole."""

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch.utils.flop_counter import FlopCounterMode

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.calibration.sensitivities import counted_outputs
from optimum_snp.families import check_supported, convert
from optimum_snp.structure import describe
from optimum_snp.structure.costs import count_macs
from tests.families.cases import IMAGES
from tests.helpers import build_source


@pytest.fixture(scope="module")
def calibrated():
    pruner = SNPPruner.from_pretrained(build_source("SiglipVisionModel"))
    pruner.calibrate(IMAGES, num_samples=len(IMAGES))
    return pruner


@pytest.mark.parametrize("method", ["snp", "snp-refit", "projection"])
def test_the_pooling_head_stays_whole(calibrated, method):
    pruner = calibrated.copy()
    before = {name: weight for name, weight in pruner.model.named_parameters() if name.startswith("pooler.")}
    model = pruner.prune(SNPConfig(method=method, hidden_sparsity=0.5, reconstruction=False))
    assert model.config.hidden_size == 16
    for name, weight in before.items():
        after = model.get_parameter(name)
        if name.startswith(("pooler.k_proj", "pooler.v_proj")):
            assert after.shape == ((32, 16) if name.endswith("weight") else (32,))
        else:
            assert torch.equal(after, weight)
    assert model(IMAGES).pooler_output.shape == (len(IMAGES), 32)


def test_multiply_accumulates_are_those_that_run(calibrated):
    """All that PyTorch counts, the attention of the head included."""
    model = convert(build_source("SiglipVisionModel", attn_implementation="eager")).requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        model(IMAGES[:1])
    assert counter.get_total_flops() == 2 * count_macs(model)


def test_the_direction_of_what_is_pooled_counts_beside_all_tokens(calibrated):
    model = calibrated.model
    output = model(IMAGES)
    pooled, tokens = counted_outputs(output, model.config)
    torch.testing.assert_close(pooled, F.normalize(output.pooler_output, dim=-1) * 32**0.5)
    torch.testing.assert_close(tokens, output.last_hidden_state / 4)


def test_the_head_reads_all_tokens(calibrated):
    (norm,) = [norm for norm in describe(calibrated.model).streams[0].norms if norm.name == "layernorm"]
    assert norm.readers == ["pooler.k_proj", "pooler.v_proj"]
    assert calibrated.statistics.norms["layernorm"]["num_tokens"] == 16 * len(IMAGES)


@pytest.mark.parametrize("class_name", ["Siglip2VisionModel", "Siglip2ForImageClassification", "Siglip2Model"])
def test_naflex_is_refused_with_the_reason_and_the_nearest(class_name):
    assert hasattr(transformers, class_name)
    with pytest.raises(ValueError, match=r"cannot be pruned: it reads patches in sequences.*SiglipVisionModel"):
        check_supported(class_name)


def test_images_that_are_no_squares_are_refused():
    source = build_source("SiglipVisionModel")
    source.config.image_size = (32, 16)
    with pytest.raises(ValueError, match=r"image_size is \(32, 16\).*read as a square"):
        convert(source)
