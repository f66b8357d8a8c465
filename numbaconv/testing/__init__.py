"""The conformance suite: hand it a lowering, anyone's, and it says what is wrong.

    nc.testing.check_lowering(Mine)                     every parameter's values, the whole grid of problems
    nc.testing.check_lowering(Mine(batching=2), quick=True)
    nc.testing.check_problem(Mine(), nc.ConvProblem.parse("mb1ic3ih227oc96kh11sh4"))
    nc.testing.check_lowering(Mine, device="cuda")          on a GPU, or an emulated one (NUMBACONV_CUDA=emulate)

Results are compared with an oracle of plain loops that shares no code with the lowerings, on whole numbers, so that
they must be *equal*. Arrays are cut out of memory full of NaN, scratch is filled with NaN, then with junk.
"""

from numbaconv.testing.conformance import Report, check_lowering, check_problem
from numbaconv.testing.failures import ConformanceError

__all__ = ["ConformanceError", "Report", "check_lowering", "check_problem"]
