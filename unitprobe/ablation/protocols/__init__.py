"""Published ablation protocols, one call each.

Every protocol returns an ablation tree whose attribute ``protocol`` names it.
"""

from unitprobe.ablation.protocols.bau import bau_protocol
from unitprobe.ablation.protocols.morcos import morcos_protocol
from unitprobe.ablation.protocols.ranadive import ranadive_protocol
from unitprobe.ablation.protocols.zhou import zhou_protocol

__all__ = [
    "bau_protocol",
    "morcos_protocol",
    "ranadive_protocol",
    "zhou_protocol",
]
