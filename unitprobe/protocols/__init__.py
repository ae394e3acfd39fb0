"""Published ablation protocols, one call each.

Every protocol returns an ablation tree whose attribute ``protocol`` names it.
"""

from unitprobe.protocols.bau import bau_protocol
from unitprobe.protocols.claims import (
    Finding,
    Judgement,
    judge_c9,
    judge_c10,
    judge_c11,
)
from unitprobe.protocols.morcos import morcos_protocol
from unitprobe.protocols.ranadive import ranadive_protocol
from unitprobe.protocols.summaries import summarize_protocol
from unitprobe.protocols.zhou import zhou_protocol

__all__ = [
    "Finding",
    "Judgement",
    "bau_protocol",
    "judge_c9",
    "judge_c10",
    "judge_c11",
    "morcos_protocol",
    "ranadive_protocol",
    "summarize_protocol",
    "zhou_protocol",
]
