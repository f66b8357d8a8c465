"""The ladders: from three plain loops to the production kernel, one idea a step.

Every step is a file of this folder, and nothing else: ``cpu3_blocked.py`` is the third step of the ladder "cpu". Its
docstring compares it with the step before; its function has the same signature and the same names as all others.
"""

from numbaconv.ladder.assembly import assembly
from numbaconv.ladder.check import check
from numbaconv.ladder.step import LADDERS, Step, step, steps
from numbaconv.ladder.trace import record, traffic

__all__ = ["LADDERS", "Step", "assembly", "check", "record", "step", "steps", "traffic"]
