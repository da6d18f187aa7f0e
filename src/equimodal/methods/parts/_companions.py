"""Companions: frozen modules that a method asks and never trains, such as unimodal teachers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from equimodal.batch import Batch, Tree
from equimodal.engine import is_sharded
from equimodal.errors import CheckpointError, MethodError, ModelError, UnsupportedError, did_you_mean
from equimodal.methods._base import Method
from equimodal.methods.parts._heads import like_model
from equimodal.model import Multimodal, encode_rows


class Companions(nn.Module):
    """Frozen modules that a method asks and never trains: unimodal teachers, an earlier model.

    They move with the method to another device or type, stay in evaluation mode, run without history under the engine's
    autocast, and are nobody's parameters: no optimizer, no average over processes and no state has them. A state holds
    a reference instead, file and SHA-256 of the tensors, which must fit when the state is loaded. Prediction and export
    need no companion.

    Args:
        modules: name -> module with its weights loaded; frozen here, not copied, so it must not share parts with the
            method. For :meth:`features` the name is a modality, and the module a trained method, a model, or an
            encoder. One object may stand under several names. Every process must be given the same weights.
        files: name -> file that the weights are from, for the record and for messages.

    Raises:
        ModelError: no module, or something else.
        UnsupportedError: a module whose parameters are sharded.

    Example:
        >>> teachers = Companions({"audio": nn.Linear(5, 4)})
        >>> batch = Batch({"audio": torch.zeros(3, 5), "video": torch.zeros(3, 2)})
        >>> {m: (h.shape, h.requires_grad) for m, h in teachers.features(batch).items()}
        {'audio': (torch.Size([3, 4]), False)}
        >>> list(teachers.parameters()), teachers.train()["audio"].training
        ([], False)
    """

    def __init__(self, modules: Mapping[str, nn.Module], files: Mapping[str, str] | None = None) -> None:
        super().__init__()
        if not isinstance(modules, Mapping) or not modules:
            raise ModelError(f"`modules`: expected name -> module with at least one entry. Found {modules!r}.")
        self._companions: dict[str, nn.Module] = dict(modules)  # in a dictionary, so that they are no submodules
        hashes: dict[int, str] = {}
        self._references: dict[str, dict[str, str]] = {}
        self._modalities: tuple[str, ...] | None = None
        for name, module in modules.items():
            if not isinstance(module, nn.Module):
                raise ModelError(f"`modules[{name!r}]`: expected an nn.Module. Found {type(module).__name__}.")
            if any(is_sharded(p) for p in module.parameters()):
                raise UnsupportedError(
                    f"`modules[{name!r}]`: expected whole parameters. Found sharded ones, which every process would "
                    "have to gather. Load the module whole."
                )
            if id(module) not in hashes:
                hashes[id(module)] = _hash(module.requires_grad_(False))
            self._references[name] = {"file": (files or {}).get(name, ""), "sha256": hashes[id(module)]}
        unknown = sorted(set(files or {}) - set(modules))
        if unknown:
            raise ModelError(f"`files`: expected names of `modules`, {list(modules)}. Found {unknown}.")
        self.train()

    @classmethod
    def of(cls, companions: Companions | Mapping[str, nn.Module], model: nn.Module | Multimodal) -> Companions:
        """``companions`` as they are, or made of modules; on the device and in the type of ``model``."""
        trained = {id(p) for p in cast(nn.Module, model).parameters()}
        given = companions._companions if isinstance(companions, cls) else companions
        for name, module in given.items() if isinstance(given, Mapping) else ():
            if isinstance(module, nn.Module) and any(id(p) in trained for p in module.parameters()):
                raise ModelError(
                    f"`companions[{name!r}]`: expected parameters apart from the model's, since companions are frozen. "
                    "Found some that both have. Give copy.deepcopy(module)."
                )
        made = companions if isinstance(companions, cls) else cls(cast("Mapping[str, nn.Module]", companions))
        made._modalities = tuple(cast(Multimodal, model).modalities)
        return cast(Companions, like_model(made, cast(Multimodal, model)))

    @classmethod
    def absent(cls, files: Mapping[str, str]) -> Companions:
        """Names without modules, for a method that only predicts.

        Example:
            >>> Companions.absent({"audio": "teacher.safetensors"})["audio"]
            Traceback (most recent call last):
            ...
            equimodal.errors.MethodError: Companion 'audio': expected its module. Found none...
        """
        made = cls({name: nn.Identity() for name in files}, files)
        made._companions = {}
        made._references = {name: {"file": file, "sha256": ""} for name, file in files.items()}
        return made

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order; also of absent ones."""
        return tuple(self._references)

    def __getitem__(self, name: str) -> nn.Module:
        if not self._companions:
            files = sorted({reference["file"] for reference in self._references.values()} - {""})
            raise MethodError(
                f"Companion {name!r}: expected its module. Found none, since this method was built to predict. Build "
                f"it with its companions to train it{': ' if files else ''}{', '.join(files)}."
            )
        if name not in self._companions:
            raise MethodError(
                f"Companion {name!r}: expected one of {list(self._companions)}. Found another name."
                f"{did_you_mean(name, self._companions)}"
            )
        return self._companions[name]

    def forward(self, name: str, *arguments: Any, **options: Any) -> Any:
        """What the companion of that name returns, without history."""
        with torch.no_grad():
            return self[name](*arguments, **options)

    def features(self, batch: Batch) -> dict[str, Tree]:
        """Modality -> features that its companion gives for the batch; rows of absent samples are zero.

        Give it the batch that the objective was called with: the companions then see the same augmented samples.

        Raises:
            ModelError: a companion that is named after no modality of the model that :meth:`of` was given.
        """
        if self._modalities is not None:
            for name in self._companions:
                if name not in self._modalities:
                    raise ModelError(
                        f"`companions`: expected names of the modalities {list(self._modalities)}. Found {name!r}."
                        f"{did_you_mean(name, self._modalities)}"
                    )
        names = self._companions or batch.inputs  # those of absent ones say what is missing
        with torch.no_grad():
            return {m: self._encoded(m, batch) for m in names if m in batch.inputs}

    def outputs(self, features: Mapping[str, Tree]) -> dict[str, Tensor]:
        """Modality -> output of its companion alone (B, C, ...) from what :meth:`features` gave.

        Raises:
            MethodError: a companion that is no method with unimodal outputs.
        """
        with torch.no_grad():
            return {m: self._output(m, h) for m, h in features.items()}

    def _encoded(self, modality: str, batch: Batch) -> Tree:
        module = self[modality]
        model: Any = module.model if isinstance(module, Method) else module
        if hasattr(model, "encode"):
            encoded: dict[str, Tree] = model.encode({modality: batch.inputs[modality]}, batch.present, [modality])
            return encoded[modality]
        return encode_rows(module, batch.inputs[modality], batch.rows(modality))

    def _output(self, modality: str, feature: Tree) -> Tensor:
        module = self[modality]
        found: dict[str, Tensor] = {}
        if isinstance(module, Method):
            way = module.unimodal
            found = module.unimodal_outputs({modality: feature}) if way is None else way({modality: feature}, None)
        if modality not in found:
            raise MethodError(
                f"Companion {modality!r}: expected a trained method with an output for {modality!r} alone. Found "
                f"{type(module).__name__}, which has none. Take the control for a single modality."
            )
        return found[modality]

    # ---- what keeps them apart ---------------------------------------------------------------------------------------

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Companions:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for module in self._distinct():
            module._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def train(self, mode: bool = True) -> Companions:
        """Leaves the companions in evaluation mode."""
        super().train(mode)
        for module in self._distinct():
            module.train(False)
        return self

    def _distinct(self) -> list[nn.Module]:
        return list({id(module): module for module in self._companions.values()}.values())

    def extra_repr(self) -> str:
        """Names and files, for ``repr``."""
        return ", ".join(f"{name}: {reference['file'] or 'given'}" for name, reference in self._references.items())

    # ---- state -------------------------------------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """Name -> ``file`` and ``sha256`` of each companion."""
        return {name: dict(reference) for name, reference in self._references.items()}

    def set_extra_state(self, state: Mapping[str, Mapping[str, str]]) -> None:
        """Compare with what :meth:`get_extra_state` gave.

        Raises:
            CheckpointError: other companions, or other weights of one; the message names the file.
        """
        if not self._companions:  # to predict, nothing is compared; saved again, the record stays
            files = {name: reference["file"] for name, reference in self._references.items()}
            self._references = {n: {**r, "file": r["file"] or files.get(n, "")} for n, r in state.items()}
            return
        if set(state) != set(self._references):
            raise CheckpointError(
                f"Companions: expected {sorted(state)}, which this training used. Found {sorted(self._references)}. "
                "Build the method with the same ones."
            )
        for name, reference in state.items():
            here = self._references[name]
            if here["sha256"] != reference["sha256"]:
                raise CheckpointError(
                    f"`{here['file'] or reference['file'] or name}`: expected the weights that the companion {name!r} "
                    f"had in this training (SHA-256 {reference['sha256'][:12]}). Found others "
                    f"({here['sha256'][:12]}). Restore the file, or start the training anew."
                )


def _hash(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and values of the tensors in a module's state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
