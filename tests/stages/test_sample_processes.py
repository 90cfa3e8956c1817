import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from diladiff_cli.model import load
from tests.chain import Chain

SCRIPT = """
import json, sys
from diladiff_cli.config import SampleConfig
from diladiff_cli.stages.sample import generate
from diladiff_cli.stages.sampler import load_sampler
for sample in generate(load_sampler(sys.argv[1]), SampleConfig(n=10, decodings=2, batch_size=4)):
    print(json.dumps(sample["token_ids"]))
"""


@pytest.mark.slow
def test_samples_do_not_depend_on_the_number_of_processes(tiny_chain: Chain) -> None:
    wanted = [s["token_ids"] for s in load(tiny_chain.student, "cpu").sample(n=10, decodings=2)]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    shared |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "LOCAL_WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tiny_chain.student)],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    assert outputs[0].splitlines() == [str(row) for row in wanted]
    assert outputs[1] == ""
