"""Published ablation protocols, one function each.

Every function returns an ablation tree whose attribute ``protocol`` has its name.
"""

from unitprobe.protocols.bau import bau_protocol
from unitprobe.protocols.common import nodes_of
from unitprobe.protocols.damage_correlations import pooled_correlations
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
    "Protocol",
    "bau_protocol",
    "morcos_protocol",
    "nodes_of",
    "pooled_correlations",
    "protocol_of",
    "ranadive_protocol",
    "summarize_protocol",
    "zhou_protocol",
]
