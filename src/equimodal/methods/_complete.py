"""Methods that cannot train where modalities are absent say so before training starts."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from equimodal.errors import UnsupportedError
from equimodal.methods._base import Method


def refuse_incomplete(method: Method, present: Mapping[str, Tensor], where: str = "the training samples") -> None:
    """Refuse training data with absent modalities for a method whose options need complete samples.

    Which options these are is in :attr:`MethodInfo.complete`; they need every modality when they are not 0, ``False``
    or ``None``.

    Args:
        method: with its options as attributes of the same names.
        present: modality -> (N,) booleans, as ``dataset.train.present``; modalities without an entry are complete.
        where: what the samples are, for the message.

    Raises:
        UnsupportedError: an option in force needs complete samples, and some are not.

    Example:
        >>> from torch import nn
        >>> from equimodal import Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> from equimodal.methods import Joint
        >>> model = MultimodalModel({"a": nn.Linear(3, 4)}, Concat({"a": 4}), nn.Linear(4, 2))
        >>> refuse_incomplete(Joint(model, Classification(2)), {"a": torch.tensor([True, False])})
    """
    absent = {m: int((~mask).sum()) for m, mask in present.items() if not bool(mask.all())}
    if not absent:
        return
    for option, why in method.info.complete.items():
        if getattr(method, option):
            shown = ", ".join(f"{m} in {count} of {len(present[m])}" for m, count in absent.items())
            raise UnsupportedError(
                f"`{option}`: {why}. Absent in {where}: {shown}. Use {option}=0 for {type(method).__name__}, or "
                "another method."
            )
