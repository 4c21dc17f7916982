"""CARE's engine: contrastive training with rotational equivariance, without a command line.

`pretrain(spec, run_dir)` trains, `probe(spec, run_dir, source)` measures; both work in a notebook.
Importing the package is free: torch is loaded by the names that need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from care_core.measures.probing import probe
    from care_core.train import pretrain

__all__ = ["pretrain", "probe"]


def __getattr__(name: str) -> Any:
    if name == "pretrain":
        from care_core.train import pretrain

        return pretrain
    if name == "probe":
        from care_core.measures.probing import probe

        return probe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
