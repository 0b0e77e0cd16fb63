"""What one process does for all."""

import json
import os
import subprocess
import sys

import pytest

from optimum_snp.processes import run_on_main_process
from tests.hub_repos import User
from tests.hub_server import HubServer


def test_one_process_gives_the_result_and_raises_the_error():
    assert run_on_main_process(lambda: {"a": [1]}) == {"a": [1]}
    with pytest.raises(KeyError, match="b"):
        run_on_main_process(lambda: {"a": [1]}["b"])


TWO_PROCESSES = """
import json, sys
from transformers import TrainingArguments
from optimum_snp import SNPPruner
from optimum_snp.processes import process_state
from tests.helpers import build_source

pruner = SNPPruner(build_source("ViTModel"))
found = {"processes": process_state().num_processes, "url": str(pruner.push_to_hub("me/small"))}
try:
    pruner.push_to_hub("me/small", token="hf_unknown")
except Exception as error:
    found["error"] = f"{type(error).__name__}: {error}"
with open(f"{sys.argv[1]}/{process_state().process_index}.json", "w") as file:
    json.dump(found, file)
"""


def test_one_of_two_processes_pushes_and_its_error_ends_both(tmp_path):
    (tmp_path / "job.py").write_text(TWO_PROCESSES)
    with HubServer(tokens={"hf_mine": User("me")}) as hub:
        process = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
             str(tmp_path / "job.py"), str(tmp_path)],
            capture_output=True, text=True, timeout=300,
            env={**hub.environment(tmp_path / "cache", token="hf_mine"), "PYTHONPATH": os.getcwd()},
        )  # fmt: skip
    assert process.returncode == 0, process.stderr
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    repo = hub.repos["me/small"]
    assert len(repo.commits) == 2
    for rank in range(2):
        assert found[rank]["processes"] == 2
        assert found[rank]["url"].endswith(f"/me/small/commit/{repo.resolve('main')}")
    assert found[0]["error"].startswith("PermissionError: The Hub does not accept the token.")
    assert found[1]["error"].startswith("RuntimeError: The main process failed with PermissionError: The Hub does not")
