"""Published ablation protocols, one call each.

Every protocol returns an ablation tree whose attribute ``protocol`` names it.
"""

from unitprobe.ablation.protocols.bau import bau_protocol
from unitprobe.ablation.protocols.claims import (
    Finding,
    Judgement,
    judge_c9,
    judge_c10,
    judge_c11,
)
from unitprobe.ablation.protocols.morcos import morcos_protocol
from unitprobe.ablation.protocols.ranadive import ranadive_protocol
from unitprobe.ablation.protocols.summaries import summarize_protocol
from unitprobe.ablation.protocols.zhou import zhou_protocol

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
