"""Latency of models in turn."""

import pytest
import torch
from torch import nn

from optimum_snp import SNPPruner
from optimum_snp.benchmarking import measure_latency


class Counting(nn.Module):
    def __init__(self, order, name):
        super().__init__()
        self.order, self.name = order, name

    def forward(self, pixel_values):
        self.order.append(self.name)
        return pixel_values


def test_models_run_in_turn():
    order = []
    models = {name: Counting(order, name) for name in ("a", "b")}
    latencies = measure_latency(models, torch.zeros(1, 3, 4, 4), num_runs=3, num_warmup=1)
    assert order == ["a", "b"] * 4
    assert latencies.keys() == {"a", "b"}
    assert all(seconds > 0 for seconds in latencies.values())


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"num_runs": -1}])
def test_numbers_that_measure_nothing(options, source):
    with pytest.raises(ValueError, match="must be a positive integer, got"):
        SNPPruner(source).measure_latency(**options)
