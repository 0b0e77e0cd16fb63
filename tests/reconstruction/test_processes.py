"""The whole reconstructed model is the same to the bit, by however many processes."""

import pytest

from optimum_snp import SNPPruner
from tests.helpers import build_source, torchrun
from tests.reconstruction import processes_job


@pytest.mark.slow
def test_one_two_and_four_processes_build_one_model(tmp_path):
    for class_name in processes_job.CLASSES:
        statistics = SNPPruner(build_source(class_name)).calibrate(processes_job.IMAGES)
        statistics.save(processes_job.statistics_path(tmp_path, class_name))
    for count in (1, 2, 4):
        process = torchrun(count, processes_job.__file__, tmp_path)
        assert process.returncode == 0, process.stderr
    for class_name in processes_job.CLASSES:
        found = {path.name: path.read_text() for path in tmp_path.glob(f"{class_name}-*-of-*")}
        assert len(found) == 1 + 2 + 4
        assert len(set(found.values())) == 1, found
