"""Published ablation protocols, one function each.

Every function returns an ablation tree whose attribute ``protocol`` has its name.
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
from unitprobe.protocols.protocol_registry import (
    PROTOCOLS,
    Protocol,
    protocol_of,
    summarize_protocol,
)
from unitprobe.protocols.ranadive import ranadive_protocol
from unitprobe.protocols.zhou import zhou_protocol

__all__ = [
    "PROTOCOLS",
    "Finding",
    "Judgement",
    "Protocol",
    "bau_protocol",
    "judge_c9",
    "judge_c10",
    "judge_c11",
    "morcos_protocol",
    "protocol_of",
    "ranadive_protocol",
    "summarize_protocol",
    "zhou_protocol",
]
