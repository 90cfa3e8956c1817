"""The emulated device without numbers of double precision, as Apple's GPUs are."""

import torch

from tests.processes import emulated

if __name__ == "__main__":
    emulated.refused |= {torch.float64, torch.complex128}
    emulated.main()
