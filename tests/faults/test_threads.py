"""What is kept of a model does not depend on how many threads compute it: sums are split by outputs, not by terms."""

import contextlib

import torch

from optimum_snp import SNPConfig, SNPPruner
from tests.helpers import build_source


SHARES = {"qk_sparsity": 0.5, "v_sparsity": 0.5, "mlp_sparsity": 0.5, "hidden_sparsity": 0.1}
CONFIGS = [SNPConfig(method="projection", **SHARES), SNPConfig(target_flops=0.6)]


@contextlib.contextmanager
def threads(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_plans_do_not_depend_on_threads():
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plans, sums = [], []
    for number in (1, 2):
        with threads(number):
            pruner = SNPPruner(build_source("SwinForImageClassification"))
            sums.append(pruner.calibrate(images))
            plans.append([pruner.plan(config) for config in CONFIGS])
    assert plans[0] == plans[1]
    for one, two in zip(*(found.blocks for found in sums), strict=True):
        for name in one:
            torch.testing.assert_close(one[name], two[name], rtol=1e-6, atol=1e-9, msg=name)
