"""Activations in every layout: shape, axis of the units, order in memory."""

import torch

LAYOUTS = {
    "map": ((6, 16, 8, 8), 1, torch.contiguous_format),
    "map, channels last": ((6, 16, 8, 8), 1, torch.channels_last),
    "odd map, channels last": ((5, 3, 7, 3), 1, torch.channels_last),
    "one position": ((4, 5, 1, 1), 1, torch.channels_last),
    "tokens": ((4, 12, 10), -1, torch.contiguous_format),
    "tokens that look like rows": ((2, 8, 4), 1, torch.contiguous_format),
    "units in the middle": ((4, 10, 12), 1, torch.contiguous_format),
    "channels at the end": ((4, 6, 6, 5), -1, torch.contiguous_format),
    "no positions": ((8, 7), -1, torch.contiguous_format),
}
