"""One of several processes with FSDP on a CPU.

torch's FSDP runs on CPUs, over gloo; accelerate alone turns it on for GPUs only, by the name of what it found.
"""

import sys
from pathlib import Path
from typing import Any

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from stages.lib.training.processes import main

found = PartialState.__init__


def found_gpus(self: PartialState, *arguments: Any, **named: Any) -> None:
    found(self, *arguments, **named)
    if self.distributed_type is DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


PartialState.__init__ = found_gpus
main(Path(sys.argv[1]))
