"""The private name of peft's that Graft sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer


@contextmanager
def adapters_off(layers: Sequence[LoraLayer]) -> Iterator[None]:
    """Leave the adapters of `layers` out.

    peft's own `disable_adapter` and `enable_adapters` (0.21) freeze every adapter's weights first and thaw them
    afterwards, which a fast GPU waits for in each step of DPO.
    """
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer._disable_adapters = was
