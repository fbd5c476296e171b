"""The MobileSAM inside `ultralytics` (AGPL-3.0), to be measured against; no model of the registry.

Like `baselines.fast_sam`, it imports that package only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def build_mobile_sam(state: Mapping[str, Tensor]) -> Any:
    """Its model with these weights, in evaluation mode.

    Args:
        state: In the layout of the authors' checkpoint, which it shares.

    Returns:
        A module with `image_encoder`, `prompt_encoder` and `mask_decoder`.
    """
    from baselines.fast_sam import import_ultralytics

    import_ultralytics()  # without its side effects on this process
    from ultralytics.models.sam.build import build_mobile_sam as build

    model = build()
    model.load_state_dict(state)
    # Again: attention biases are cached when `eval` is called.
    return model.train().eval()
