"""Peak memory of a model while it runs.

On a CPU the memory of a process is shared by all that it ever did. So every model is measured in a process of its own,
which has imported everything and done nothing: what it holds at most while the model runs, above what it held before
the model was loaded. A helper process makes these by forking, which costs no time for imports; this needs Linux.
"""

import contextlib
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..packages import FORMAT_OF_RUNTIME
from .contender import Contender


logger = logging.getLogger(__name__)

_PASSES = 3


class MemoryProbe:
    """A helper process, as a context manager."""

    def __enter__(self) -> "MemoryProbe":
        self._helper = None
        if not _can_measure():
            logger.warning("Peak memory is not measured: that needs Linux.")
            return self
        self._helper = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: Any) -> None:
        if self._helper is not None:
            with contextlib.suppress(BrokenPipeError):
                self._helper.stdin.close()
            self._helper.stdout.close()
            self._helper.wait()

    def measure(self, contender: Contender, batch_size: int, num_threads: int) -> int | None:
        """Bytes, or `None` where that cannot be measured."""
        if self._helper is None:
            return None
        request = {"contender": asdict(contender), "batch_size": batch_size, "num_threads": num_threads}
        try:
            self._helper.stdin.write(json.dumps(request) + "\n")
            self._helper.stdin.flush()
            answer = self._helper.stdout.readline()
        except BrokenPipeError:  # the helper has ended
            answer = ""
        peak = json.loads(answer) if answer else None
        if peak is None:
            logger.warning(f"The peak memory of {contender.model} on {contender.backend} could not be measured.")
        return peak


@torch.inference_mode()
def gpu_memory(call: Callable[[], Any], device: torch.device) -> int:
    """Bytes that a call takes on a GPU above what was held before, the weights not counted."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _can_measure() -> bool:
    return Path("/proc/self/clear_refs").exists()


def _status(name: str) -> int:
    """Bytes of a field of this process's memory."""
    return 1024 * int(re.search(rf"^{name}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE).group(1))


@torch.inference_mode()
def _peak(contender: Contender, batch_size: int, num_threads: int) -> int:
    torch.set_num_threads(num_threads)
    before = _status("VmRSS")
    call = contender.ready(contender.load(torch.device("cpu")), batch_size, num_threads)
    call()  # the first pass also prepares, `torch.compile` most of all
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    for _ in range(_PASSES):
        call()
    return _status("VmHWM") - before


def _serve() -> None:
    """Answers a request per line, each from a process of its own."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    for runtime in filter(importlib.util.find_spec, FORMAT_OF_RUNTIME):
        importlib.import_module(runtime)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                request["contender"] = Contender(**request["contender"])
                os.write(answers, f"{_peak(**request)}\n".encode())
                status = 0
            except Exception:
                traceback.print_exc()  # the parent can only tell that there is no answer
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        if status:
            os.write(answers, b"null\n")


if __name__ == "__main__":
    _serve()
