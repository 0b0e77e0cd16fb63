"""The record is that of the pruner's present stage."""

from dataclasses import FrozenInstanceError

import pytest

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.record import Measurements, Origin


def test_record_of_every_stage(source, pixel_values, image_processor):
    pruner = SNPPruner(source, image_processor, origin=Origin("google/vit-base"))
    dense = pruner.record
    assert (dense.model, dense.image_processor, dense.plan) == (pruner.model, image_processor, None)
    assert (dense.measurements, dense.origin) == (Measurements(), Origin("google/vit-base"))
    pruner.prune(SNPConfig(mlp_sparsity=0.5), calibration_dataset=pixel_values)
    assert pruner.record.model is pruner.model
    assert pruner.record.plan is pruner.pruning_plan
    assert pruner.record.measurements is pruner.measurements
    assert dense.model is pruner.original  # what was recorded before stays
    assert dense.plan is None
    with pytest.raises(FrozenInstanceError):
        dense.model = pruner.model
