from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equimodal.data import load_bundle
from equimodal.errors import DataError, UnknownNameError
from tests.data.helpers import arrays, card, save


class Hostile:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_card_next_to_the_file_is_found_before_a_shipped_one(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    path = save(tmp_path, name="ravdess.npz")
    (tmp_path / "ravdess.yaml").write_text(yaml.safe_dump(card(), sort_keys=False), encoding="utf-8")
    assert load_bundle(path).name == "small"
    folder = save(tmp_path, name="mine")
    (folder / "card.yaml").write_text(yaml.safe_dump(card(name="inside"), sort_keys=False), encoding="utf-8")
    assert load_bundle(folder).name == "inside"
    assert load_bundle(folder, tmp_path / "ravdess.yaml").name == "small"


def test_a_shipped_card_that_does_not_fit_says_which_card_asked(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    path = save(tmp_path, name="utdmhad.npz")
    with pytest.raises(DataError) as caught:
        load_bundle(path)
    assert str(path) in str(caught.value)
    assert "expected an array `subject`, which field `protocols.cross-subject` of card utdmhad" in str(caught.value)


def test_without_a_card_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a card.*small.yaml.*avdigits, lggmri.*docs/data.md"):
        load_bundle(save(tmp_path))


def test_broken_yaml_names_the_file(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    path = save(tmp_path)
    (tmp_path / "small.yaml").write_text("name: [unclosed", encoding="utf-8")
    with pytest.raises(DataError, match=r"small.yaml: expected valid YAML. Found: .*line 1"):
        load_bundle(path)
    (tmp_path / "small.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        load_bundle(path)
    (tmp_path / "small.yaml").write_text("name: a\nmodalities: {}\nname: b\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"small.yaml: line 3: expected each field once. Found 'name' a second time"):
        load_bundle(path)
    (tmp_path / "small.yaml").write_text("!!python/object/apply:os.getcwd []", encoding="utf-8")
    with pytest.raises(DataError, match="expected valid YAML"):
        load_bundle(path)


def test_a_missing_file_is_suggested(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(DataError, match=r"smal.npz: expected a .npz file.*Did you mean .*small.npz"):
        load_bundle(tmp_path / "smal.npz", card())


@pytest.mark.parametrize("keep", [0, 10, 0.3, 0.9, -30])
def test_a_truncated_file_is_named(tmp_path: Path, keep: float) -> None:
    path = save(tmp_path)
    content = path.read_bytes()
    size = int(len(content) * keep) if 0 < keep < 1 else int(keep)
    path.write_bytes(content[:size])
    with pytest.raises(DataError, match=r"small.npz: .*(truncated|pickled)"):
        load_bundle(path, card())


def test_damaged_content_is_found_where_it_is_read(tmp_path: Path) -> None:
    path = save(tmp_path)
    content = bytearray(path.read_bytes())
    at = content.find(b"walk.npy") + 300
    content[at : at + 40] = bytes(40)
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"small.npz: array `walk`: .*corrupt"):
        load_bundle(path, card())


def test_truncated_npy_in_a_folder(tmp_path: Path) -> None:
    folder = save(tmp_path, name="folder")
    file = folder / "walk.npy"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"folder: array `walk`: .*truncated"):
        load_bundle(folder, card())


def test_an_empty_folder_and_a_single_array(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"expected a folder with .npy files"):
        load_bundle(tmp_path / "empty", card())
    with (tmp_path / "single.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="Found a single array"):
        load_bundle(tmp_path / "single.npz", card())


@pytest.mark.parametrize("form", ["npz", "folder", "plain"])
def test_pickles_are_refused_and_not_run(tmp_path: Path, form: str) -> None:
    trap, path = tmp_path / "trap", tmp_path / ("folder" if form == "folder" else "small.npz")
    bad = np.array([Hostile(trap)] * 24, dtype=object)
    if form == "plain":
        path.write_bytes(pickle.dumps(Hostile(trap)))
    elif form == "npz":
        save(tmp_path, arrays() | {"y": bad})
    else:
        save(tmp_path, arrays() | {"y": bad}, "folder")
    with pytest.raises(DataError, match="pickled Python objects, which can run code"):
        load_bundle(path, card())
    assert not trap.exists()


def load(changed: dict[str, Any], own: dict[str, Any] | None = None, **options: Any) -> Any:
    raw = arrays() | changed
    return load_bundle(save(Path.cwd(), {k: v for k, v in raw.items() if v is not None}), own or card(), **options)


SHORT = np.zeros((23, 5, 4, 3))


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"walk": None}, r"expected an array `walk`, which field `modalities.walk` of `card` asks for"),
        ({"walk": None, "walks": SHORT}, r"Did you mean 'walks'"),
        ({"walk": SHORT}, r"array `walk` \(field `modalities.walk` of `card`\): expected 24 samples.*Found 23"),
        ({"pair_face": np.zeros(20, int)}, r"array `pair_face` .*expected 24 samples.*Found 20"),
        ({"pair_face": np.full(24, 8)}, r"`pair_face`: expected indices 0 to 7 into `face`. Found 8 to 8"),
        ({"pair_face": np.full(24, -1)}, r"`pair_face`: expected indices 0 to 7"),
        ({"pair_face": np.zeros(24)}, r"`pair_face` .*expected whole numbers.*float64"),
        ({"y": np.zeros(22, int)}, r"array `y` .*expected 24 samples as in `part`. Found 22"),
        ({"y": np.where(np.arange(24) == 9, 3, np.arange(24) % 3)}, r"labels 0 to 2.*Found \[3\].*indices \[9\]"),
        ({"y": np.arange(24) % 3 - 1}, r"labels 0 to 2.*Found \[-1\] in 8 sample"),
        ({"y": np.linspace(0, 2, 24)}, r"array `y` .*one whole number per sample. Found float64"),
        ({"y": np.zeros((24, 2), int)}, r"array `y` .*one whole number per sample"),
        ({"has": np.ones((24, 1), int)}, r"array `has`: expected shape \(N, columns\) with a column 1"),
        ({"has": np.full((24, 2), 2)}, r"array `has`: expected 0 \(absent\) and 1 \(present\) only"),
        ({"y": np.array(["a"] * 24)}, r"array `y` .*one whole number per sample. Found <U1"),
        ({"part": np.zeros((24, 2), int)}, r"`part` \(field `protocols.people`.*one value per sample.*\(24, 2\)"),
        ({"part": np.arange(24) % 3}, r"split 'train'.*Found an empty split; the array holds \[0, 1, 2\]"),
        ({"person": np.zeros((24, 2), int)}, r"`person` .*one value per sample"),
        ({"walk": np.full((24, 5, 4, 3), "a")}, r"array `walk` .*expected numbers. Found <U1"),
        ({"has": np.ones((9, 2), int)}, r"array `has` .*expected 24 samples.*Found 9"),
        ({"person": np.zeros(3)}, r"array `person` .*expected 24 samples"),
        ({"walk": np.zeros((0, 5, 4, 3))}, r"array `walk`: expected samples on the first axis"),
        ({"walk": np.zeros((24, 5, 4, 3), complex)}, r"array `walk`: expected numbers or text. Found dtype complex128"),
        ({"walk": np.zeros((24, 6, 4, 3))}, r"`modalities.walk.shape`: expected samples of shape \(5, 12\).*\(6, 12\)"),
        ({"walk": np.zeros((24, 5, 2, 3))}, r"transforms\[0\].centre_on`: expected an operation that fits"),
        ({"face": np.zeros((8, 6, 6))}, r"modality 'face': expected one image of shape \(C, H, W\).*\(6, 6\)"),
    ],
)
def test_arrays_that_do_not_fit_the_card(changed: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        load(changed)
    assert "small.npz" in str(caught.value) or "`card`" in str(caught.value) or "modality" in str(caught.value)


def test_targets_of_other_tasks_are_checked() -> None:
    with pytest.raises(DataError, match=r"array `score` .*expected numbers. Found <U1"):
        load({"score": np.full(24, "a")}, target="score")
    mask = {"array": "mask", "task": "segmentation", "classes": ["a", "b"]}
    own = card(targets__mask=mask)
    assert load({"mask": np.ones((24, 2, 2), np.uint8)}, own, target="mask").train.batch([0]).target.shape == (1, 2, 2)
    with pytest.raises(DataError, match=r"array `mask` .*expected labels 0 to 1. Found 0 to 2"):
        load({"mask": np.arange(24).reshape(24, 1, 1) % 3}, own, target="mask")
    with pytest.raises(DataError, match=r"array `mask` .*expected whole numbers. Found float64"):
        load({"mask": np.zeros((24, 2, 2))}, own, target="mask")


def test_a_sample_without_any_modality_is_named() -> None:
    has = arrays()["has"].copy()
    has[5] = 0
    with pytest.raises(DataError, match=r"at least one present modality per sample.*indices \[5\]"):
        load({"has": has})
    # the walk of samples 2, 5, 8 ... is there, so alone they are of no use, and this is said
    with pytest.raises(DataError, match=r"Found none of \['face'\] for 8 sample"):
        load({}, modalities=["face"])


def test_modalities_and_target_can_be_chosen() -> None:
    assert list(load({}, modalities=["face", "walk"]).modalities) == ["face", "walk"]
    assert load({}, target="score").target == "score"
    assert list(load({}, card(modalities__face__default=False)).modalities) == ["walk"]
    with pytest.raises(UnknownNameError, match="Did you mean 'walk'"):
        load({}, modalities=["wolk"])
    with pytest.raises(DataError, match="different names"):
        load({}, modalities=["walk", "walk"])
    with pytest.raises(UnknownNameError, match="target of small"):
        load({}, target="scores")


def test_the_modality_says_what_it_is() -> None:
    walk = load({}).modalities["walk"]
    assert (walk.shape, walk.kind, walk.units, walk.dtype) == ((5, 12), "sequence", "m", "float32")


def test_text_arrays_of_bytes_work() -> None:
    assert load({"part": arrays()["part"].astype("S")}).parts == {"train": 12, "validation": 6, "test": 6}


def test_the_fingerprint_follows_content_card_and_options() -> None:
    first = load({}).fingerprint
    assert len(first) == 64
    assert load({}).fingerprint == first
    assert load({"unused": np.zeros(3)}).fingerprint == first
    walk = arrays()["walk"].copy()
    walk[23, 0, 0, 0] += 1
    changes = [
        load({"walk": walk}),
        load({"walk": arrays()["walk"].astype(np.float32)}),
        load({}, card(modalities__walk__standardise="global")),
        load({}, protocol="carved"),
        load({}, target="score"),
        load({}, modalities=["walk"]),
    ]
    assert len({first, *(d.fingerprint for d in changes)}) == 7
