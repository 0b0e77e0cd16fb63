"""What one call takes."""

import time

import pytest
import torch

from optimum_snp.benchmarking.stopwatch import fair_stopwatch


def work(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_one_thread_is_timed_by_what_it_gets_of_the_cpu():
    stopwatch = fair_stopwatch(torch.device("cpu"), 1)
    assert stopwatch(lambda: time.sleep(0.05)) < 0.02
    assert 0.02 <= stopwatch(lambda: work(0.02)) < 0.04


def test_several_threads_are_timed_by_the_time_that_passes():
    assert fair_stopwatch(torch.device("cpu"), 2)(lambda: time.sleep(0.02)) >= 0.02


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_waited_for():
    values = torch.randn(4096, 4096, device="cuda")
    stopwatch = fair_stopwatch(values.device, 1)

    def multiply(times):
        for _ in range(times):
            torch.mm(values, values)

    stopwatch(lambda: multiply(5))
    assert stopwatch(lambda: multiply(100)) > 5 * stopwatch(lambda: multiply(5))
