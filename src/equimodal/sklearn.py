"""Estimators with scikit-learn's interface: ``fit``, ``predict``, ``score`` on frames, and on arrays by modality."""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from equimodal.data import from_dataframe
from equimodal.data.tables import Table, as_table
from equimodal.errors import DataError, DataWarning, SmallValidationWarning, missing_extra
from equimodal.methods import default_method
from equimodal.studies import ModelConfig, Predictor, RunConfig
from equimodal.studies.tables import BUDGET, train_table

try:
    from scipy.sparse import issparse
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import assert_all_finite, check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise missing_extra("scikit-learn", "table", "`equimodal.sklearn`") from error

__all__ = ["EquimodalClassifier", "EquimodalRegressor", "ModalityArrays"]

Array = npt.NDArray[Any]
_TARGET = "equimodal target"


class ModalityArrays(Mapping[str, Any]):
    """Arrays by modality that scikit-learn can split: a mapping, whose samples are taken as ``arrays[[0, 2]]``.

    A plain dict of arrays will do for ``fit`` and ``predict``; ``cross_val_score`` and ``GridSearchCV`` need to be told
    that the samples are on the first axis.

    Args:
        arrays: modality -> (N, F), (N, T, F) or (N, C, H, W) numbers. A sample whose numbers are all NaN does not have
            the modality.

    Raises:
        DataError: different numbers of samples.

    Example:
        >>> data = ModalityArrays({"audio": np.zeros((4, 3)), "image": np.ones((4, 1, 8, 8))})
        >>> len(data), data.shape, data[[0, 2]]["image"].shape
        (4, (4, 2), (2, 1, 8, 8))
    """

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self.arrays = {name: np.asarray(x) for name, x in arrays.items()}
        sizes = {name: len(x) if x.ndim > 1 else None for name, x in self.arrays.items()}
        if not sizes or None in sizes.values() or len(set(sizes.values())) != 1:
            shapes = {name: x.shape for name, x in self.arrays.items()}
            raise DataError(f"`arrays`: expected (N, ...) numbers with one N for all modalities. Found {shapes}.")

    @property
    def shape(self) -> tuple[int, int]:
        """Samples, and modalities."""
        return len(self), len(self.arrays)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __getitem__(self, key: Any) -> Any:
        """The array of a modality, or the samples at some rows."""
        if isinstance(key, str):
            return self.arrays[key]
        rows = key[0] if isinstance(key, tuple) else key
        return ModalityArrays({name: x[rows] for name, x in self.arrays.items()})


class _Estimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What both estimators share; the arguments are those of :func:`equimodal.studies.fit_table`."""

    _task = ""

    def __init__(
        self,
        *,
        method: str | None = None,
        options: Mapping[str, Any] | None = None,
        columns: Mapping[str, Any] | None = None,
        epochs: int = 40,
        batch_size: int = 64,
        lr: float = 1e-3,
        patience: int | None = 8,
        feature_size: int = 64,
        size: str = "base",
        validation_share: float = 0.15,
        root: str | None = None,
        random_state: int | None = 0,
    ) -> None:
        self.method = method
        self.options = options
        self.columns = columns
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.patience = patience
        self.feature_size = feature_size
        self.size = size
        self.validation_share = validation_share
        self.root = root
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _fit(self, X: Any, target: Array) -> Self:
        table = self._table(X, fitting=True)
        if len(table) != len(target):
            raise ValueError(f"Found input variables with inconsistent numbers of samples: {[len(table), len(target)]}")
        share, seed = self.validation_share, 0 if self.random_state is None else int(self.random_state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            data = from_dataframe(
                table.frame.assign(**{_TARGET: target}), _TARGET, columns=self.columns, root=self.root,
                shares=(1 - share, share, 0.0), seed=seed, task=self._task,  # type: ignore[arg-type]
            )  # fmt: skip
        config = RunConfig(
            self.method or default_method(),
            dict(self.options or {}),
            model=ModelConfig(feature_size=self.feature_size, size=self.size),  # type: ignore[arg-type]
            training=dataclasses.replace(
                BUDGET, epochs=self.epochs, batch_size=self.batch_size, lr=self.lr, patience=self.patience
            ),
            seed=seed,
        )
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", SmallValidationWarning)
            method = train_table(data, config, Path(folder))
        self.predictor_ = Predictor(method.to("cpu"), data.preparation, str(data.report))
        return self

    def _frame(self, X: Any) -> Any:
        """The predictions of the model as a frame."""
        check_is_fitted(self)
        table = self._table(X, fitting=False)
        return self.predictor_.predict(table.frame, root=self.root)

    def _table(self, X: Any, *, fitting: bool) -> Table:
        """Samples as a table: a frame as it is, arrays by modality one cell each, a matrix as numbers."""
        if isinstance(X, Mapping) and not issparse(X):  # a sparse matrix of keys is a mapping, too
            arrays = X if isinstance(X, ModalityArrays) else ModalityArrays(X)
            return as_table({name: _cells(arrays[name]) for name in arrays}, "`X`")
        if hasattr(X, "columns") and hasattr(X, "dtypes"):
            table = as_table(X, "`X`")
            if fitting:
                self.n_features_in_ = len(table.columns)
                self.feature_names_in_ = np.array(table.columns, dtype=object)
            return table
        matrix = validate_data(self, X, reset=fitting, dtype="numeric", ensure_all_finite="allow-nan")
        return as_table({f"x{i}": column for i, column in enumerate(matrix.T)}, "`X`")


class EquimodalClassifier(ClassifierMixin, _Estimator):  # type: ignore[misc]
    """A classifier of samples with several modalities, some of which may be missing.

    ``X`` is a frame of pandas or polars (columns as in :func:`equimodal.data.from_dataframe`), arrays by modality
    (:class:`ModalityArrays` or a dict), or a matrix (N, F). A part of the rows is kept for choosing the epoch and the
    weights of the modalities.

    Args:
        method: name; default the one to begin with, :class:`~equimodal.methods.ExpertPool`.
        options: of the method.
        columns: what columns are, where the proposal is wrong.
        epochs: most passes over the training rows.
        batch_size: samples per step.
        lr: learning rate of AdamW.
        patience: epochs without a better validation score before training ends; ``None`` never ends early.
        feature_size: width of every encoder's output.
        size: of the encoders, ``small`` or ``base``.
        validation_share: share of the rows that is kept for choices.
        root: folder that relative paths in cells begin in.
        random_state: decides the split, initial weights and the order of the batches; ``None`` is 0.

    Attributes:
        classes_: the classes, in the order of ``predict_proba``.
        predictor_: :class:`equimodal.studies.Predictor`, for what each modality says.

    Example:
        >>> X = ModalityArrays({"a": np.repeat(np.eye(2), 20, 0), "b": np.zeros((40, 3))})
        >>> model = EquimodalClassifier(epochs=2, size="small").fit(X, ["left"] * 20 + ["right"] * 20)
        >>> model.predict_proba(X).shape, model.classes_.tolist()
        ((40, 2), ['left', 'right'])
    """

    _task = "classification"

    def fit(self, X: Any, y: Any) -> Self:
        """Train on samples and their classes (N,)."""
        labels = column_or_1d(_target(y), warn=True)
        check_classification_targets(labels)
        if labels.dtype.kind == "f":
            assert_all_finite(labels, input_name="y")
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError(
                f"`y`: expected two classes or more. Found 1 class, {self.classes_.tolist()}, in all samples."
            )
        return self._fit(X, codes.astype(str))

    def predict(self, X: Any) -> Array:
        """(N,) classes."""
        found: Array = self.classes_[self.predict_proba(X).argmax(1)] if self._ready() else np.empty(0)
        return found

    def predict_proba(self, X: Any) -> Array:
        """(N, C) probabilities, in the order of ``classes_``; NaN for a sample without any modality."""
        frame = self._frame(X)
        found: Array = frame[[f"p_{i}" for i in range(len(self.classes_))]].to_numpy(dtype=np.float64)
        return found

    def _ready(self) -> bool:
        check_is_fitted(self)
        return True


class EquimodalRegressor(RegressorMixin, _Estimator):  # type: ignore[misc]
    """A regressor of one number from samples with several modalities; arguments as :class:`EquimodalClassifier`.

    The target is standardised for training, and predictions are in its unit. ``score`` is scikit-learn's R².

    Attributes:
        predictor_: :class:`equimodal.studies.Predictor`, for what each modality says.

    Example:
        >>> X = np.linspace(0, 1, 40)[:, None]
        >>> EquimodalRegressor(epochs=2, size="small").fit(X, 3 * X[:, 0]).predict(X).shape
        (40,)
    """

    _task = "regression"

    def fit(self, X: Any, y: Any) -> Self:
        """Train on samples and their numbers (N,)."""
        numbers = column_or_1d(_target(y), warn=True).astype(np.float64)
        assert_all_finite(numbers, input_name="y")
        if len(numbers) < 2:
            raise DataError(f"`y`: expected at least two samples. Found n_samples = {len(numbers)}.")
        return self._fit(X, numbers)

    def predict(self, X: Any) -> Array:
        """(N,) numbers; NaN for a sample without any modality."""
        found: Array = self._frame(X)["prediction"].to_numpy(dtype=np.float64)
        return found


def _target(y: Any) -> Any:
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None")
    return y


def _cells(array: Array) -> Any:
    """One array per cell; ``None`` where all numbers are NaN."""
    column = np.empty(len(array), dtype=object)
    for row, sample in enumerate(array):
        column[row] = None if sample.dtype.kind == "f" and np.isnan(sample).all() else sample
    return column
