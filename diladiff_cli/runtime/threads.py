"""How the threads of a CPU's operations wait for one another."""

import os

SPINS = 10_000
CHOSEN = frozenset({"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"})  # by which users say it themselves


def wait_briefly() -> None:
    """Have threads that wait for others of their process leave their core to other programs soon.

    GNU's OpenMP, which torch computes with on Linux, reads this when torch is imported: so call it before. Left alone
    its threads look 300,000 times whether the others are done before they sleep. Where another program computes on the
    same cores, the others wait for the very core that is held like this, in every operation. A thirtieth is enough
    where nothing else runs (as measured on two cores).
    """
    if not CHOSEN & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
