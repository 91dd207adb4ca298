"""What is freed is used again, where the C library can be told."""

import subprocess
import sys

import pytest
from conftest import HOUSE

CHURN = """
import resource, sys
import torch
sys.path.insert(0, sys.argv[1])
from utils.memory import keep_freed_memory

def pages_taken():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(16_000_000)  # 64 MB, more than glibc keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages_taken()
by_default = pages_taken()
told = keep_freed_memory()
for _ in range(5):  # until there is room for all that is asked for in turn
    pages_taken()
print(int(told), by_default, pages_taken())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is Linux's")
def test_large_blocks_are_used_again_without_new_pages():
    result = subprocess.run(
        [sys.executable, "-c", CHURN, str(HOUSE)], capture_output=True, text=True, check=True
    )
    told, by_default, kept = map(int, result.stdout.split())
    if not told:
        pytest.skip("this C library has no mallopt")
    assert kept < by_default / 10
