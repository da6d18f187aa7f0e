"""IEMOCAP: emotion of utterances in dialogues, voice, video and words."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from equimodal.data.prepare import (
    ArraySpec,
    Index,
    Item,
    Preparation,
    Problem,
    SplitSpec,
    Target,
    UnreadableError,
)
from equimodal.data.prepare.datasets._iemocap_lists import read_lists
from equimodal.data.prepare.datasets._parameters import check_parameters
from equimodal.data.prepare.readers import (
    IMAGENET,
    UNKNOWN,
    Cut,
    Faces,
    FolderTokenizer,
    Tokenizer,
    WordTokenizer,
    channels_first,
    check_margin,
    face_array,
    frames_at,
    learn_vocabulary,
    log_mel,
    log_spectrogram,
    read_encoded,
    read_sound,
    read_text,
    resize,
    token_array,
)
from equimodal.errors import DataError

Array = npt.NDArray[Any]
CLASSES = ("angry", "happy", "neutral", "sad")  # MLA's order
_CODES = {"ang": 0, "hap": 1, "neu": 2, "sad": 3}
_SESSION = re.compile(r"Session([1-5])")
_TURN = re.compile(r"\[(\d+\.\d+) - (\d+\.\d+)\]\s+((Ses\d\d[FM])_\w+_([FM])\w*\d+)\s+(\w+)\s+\[")
_LINE = re.compile(r"(Ses\d\d[FM]_\w+)\s+\[\d+\.\d+-\d+\.\d+\]:\s*(.*)")
_N_FFT, _HOP = 512, 160
# of the 720 x 480 frame: the picture is between rows 112 and 368, each speaker between columns 52 and 308 of a half
_ROWS, _COLUMNS = (112 / 480, 368 / 480), (52 / 360, 308 / 360)


@dataclass(frozen=True)
class Parameters:
    """How utterances are stored.

    Args:
        excited: ``"happy"``: excited utterances count as happy; ``"drop"``: they are no samples. Source: MLA,
            data/stat_iemo.txt with the counts of its lists.
        audio: ``"mel"``: log-mel filter bank; ``"stft"``: log magnitudes of the Fourier transform. Source: MLA,
            data/extract_fbank.py.
        sample_rate: of the sound, in Hz. Source: the recordings.
        bands: of the filter bank. Source: MLA, as above.
        seconds: length of the sound; a shorter one is padded, a longer one cut. Source: MLA, as above (1024 frames of
            10 ms).
        frames: of the video, evenly over the utterance. Source: MLA, dataset/dataset.py (the middle one).
        size: height and width of a frame. Source: MLA, as above.
        crop: ``"speaker"``: head and shoulders, ``"face"``: a square around the largest face in it, by scikit-image's
            detector, ``"half"`` or ``"full"``. Source: this library; MLA took faces, of which its
            data/preprocess_iemo.py does not say how they were found.
        margin: around a face, on each side, as a share of what the detector finds. Source: this library.
        length: token ids per utterance; longer ones are cut. Source: this library; MLA has 256.
        tokenizer: folder of a transformers tokenizer; empty: words of all transcripts. Source: MLA,
            data/preprocess_iemo.py (bert-base-uncased).
        special: add the tokenizer's special tokens. Source: MLA, as above (no).
        min_count: a word that is rarer is unknown to the built-in vocabulary. Source: this library.
        lists: folder with MLA's lists, or with those of the feature files. Source: MLA, data/my_train_iemo.txt.
    """

    excited: Literal["happy", "drop"] = "happy"
    audio: Literal["mel", "stft"] = "mel"
    sample_rate: int = 16000
    bands: int = 128
    seconds: float = 10.24
    frames: int = 1
    size: int = 256
    crop: Literal["speaker", "face", "half", "full"] = "speaker"
    margin: float = 0.25
    length: int = 64
    tokenizer: str = field(default="", metadata={"path": True})
    special: bool = False
    min_count: int = 2
    lists: str = field(default="", metadata={"path": True})

    def __post_init__(self) -> None:
        check_parameters(self, sample_rate=1, bands=1, seconds=0, frames=1, size=1, length=1, min_count=1)
        check_margin(self.margin)


class Turn(NamedTuple):
    """One utterance that is a sample."""

    name: str
    dialogue: str
    session: int
    speaker: str
    start: float
    end: float
    label: int


class Iemocap(Preparation[Parameters]):
    """IEMOCAP from its ``SessionN`` folders."""

    name = "iemocap"
    Parameters = Parameters
    packages = ("av", "PIL", "soundfile", "soxr")

    @cached_property
    def base(self) -> str:
        """Folder of the sessions below the source, with ``/``, or nothing."""
        for base in ("", "IEMOCAP_full_release/"):
            if any(_SESSION.fullmatch(p.name) for p in self.path(base or ".").glob("Session*") if p.is_dir()):
                return base
        there = sorted(p.name for p in self.raw.iterdir())[:8]
        raise self.source_error(self.raw, "Session1 to Session5", str(there))

    @cached_property
    def turns(self) -> tuple[dict[str, Turn], list[Problem], dict[str, int]]:
        """The samples, what is no sample, and how many utterances have which label."""
        found: dict[str, Turn] = {}
        ignored: list[Problem] = []
        counts: Counter[str] = Counter()
        codes = {**_CODES, **({"exc": _CODES["hap"]} if self.parameters.excited == "happy" else {})}
        for folder in sorted(p for p in self.path(self.base or ".").iterdir() if _SESSION.fullmatch(p.name)):
            session = int(folder.name[-1])
            evaluations = folder / "dialog" / "EmoEvaluation"
            if not evaluations.is_dir():
                raise self.source_error(evaluations, "the labels of IEMOCAP", "no folder")
            for path in sorted(evaluations.glob("*.txt")):
                relative = path.relative_to(self.raw).as_posix()
                if not re.fullmatch(r"Ses\d\d[FM]_\w+", path.stem):  # ._ files of macOS among them
                    ignored.append(Problem(relative, "expected SesNNG_NAME.txt"))
                    continue
                lines = 0
                for line in read_text(path).splitlines():
                    match = _TURN.match(line)
                    if match is None:
                        continue
                    lines += 1
                    counts[match[6]] += 1
                    if match[6] in codes:
                        speaker = match[4][:5] + match[5]
                        start, end = float(match[1]), float(match[2])
                        found[match[3]] = Turn(match[3], path.stem, session, speaker, start, end, codes[match[6]])
                if not lines:
                    ignored.append(Problem(relative, "has no line [START - END] TURN EMOTION [V, A, D]"))
        return found, ignored, dict(sorted(counts.items()))

    def index(self) -> Index:
        """One item per utterance with one of the labels."""
        turns, ignored, counts = self.turns
        listed, missing = read_lists(self.parameters.lists, set(turns))
        items = []
        for turn in turns.values():
            place = f"{self.base}Session{turn.session}/"
            films = [f"{place}dialog/avi/{inner}{turn.dialogue}.avi" for inner in ("DivX/", "")]
            film = films[1] if self.path(films[1]).is_file() else films[0]
            words = f"{place}dialog/transcriptions/{turn.dialogue}.txt"
            files = {
                "audio": (f"{place}sentences/wav/{turn.dialogue}/{turn.name}.wav",), "video": (film,),
                "text": (words,), "text_length": (words,),
            }  # fmt: skip
            if self.parameters.crop == "face":
                files["face"] = files["video"]
            columns: dict[str, int | str] = {
                "emotion": turn.label, "session": turn.session, "speaker": turn.speaker, "dialogue": turn.dialogue,
            }  # fmt: skip
            for protocol, parts in listed.items():
                columns[protocol] = parts.get(turn.name, "validation" if protocol == "mla" else "unlisted")
            items.append(Item(turn.name, files, columns))
        return Index(
            items=tuple(items),
            targets={"emotion": Target("emotion", classes=CLASSES, description="what most raters said")},
            protocols=self._protocols(turns, listed),
            groups=("speaker", "dialogue"),
            missing=missing,
            ignored=tuple(ignored),
            notes={"labels": counts},
            files={} if self.parameters.tokenizer else {"vocabulary.txt": "\n".join(self.words) + "\n"},
        )

    def _protocols(self, turns: Mapping[str, Turn], listed: Mapping[str, Mapping[str, str]]) -> dict[str, SplitSpec]:
        found = {}
        sessions = sorted({turn.session for turn in turns.values()})
        for position, session in enumerate(sessions if len(sessions) >= 3 else []):
            following = sessions[(position + 1) % len(sessions)]
            others = tuple(s for s in sessions if s not in (session, following))
            found[f"session{session}"] = SplitSpec(
                "session", others, (following,), (session,), groups=("speaker",),
                description=f"session {session} for testing, session {following} for validation",
            )  # fmt: skip
        if "mla" in listed:
            found["mla"] = SplitSpec(
                "mla", ("train",), ("validation",), ("test",), groups=("speaker", "dialogue"), overlapping=True,
                description="MLA's lists; what is in neither is for validation; speakers and dialogues in every part",
            )  # fmt: skip
        if "cggm" in listed:
            sides = {(turns[name].speaker, part) for name, part in listed["cggm"].items() if name in turns}
            found["cggm"] = SplitSpec(
                "cggm", ("train",), ("validation",), ("test",), "the lists of the feature files", groups=("speaker",),
                overlapping=len(sides) > len({speaker for speaker, _ in sides}),
            )  # fmt: skip
        if not found:
            raise DataError(f"{self.raw}: expected at least 3 sessions, or `lists`. Found the sessions {sessions}.")
        return found

    def needs(self) -> tuple[str, ...]:
        """The detector of faces only where they are cut out."""
        return (*self.packages, "skimage") if self.parameters.crop == "face" else self.packages

    def arrays(self) -> Mapping[str, ArraySpec]:
        """Filter bank or spectrogram, frames, token ids with their number, and where faces come from."""
        p = self.parameters
        length = int(p.seconds * p.sample_rate)
        mel = p.audio == "mel"
        shape = (1, p.bands, round(p.seconds * 100)) if mel else (1, 1 + _N_FFT // 2, 1 + length // _HOP)
        return {
            "audio": ArraySpec(
                shape, "float32", "image", units="log energy" if mel else "log magnitude", standardise="global",
                description=f"{p.audio}, {p.sample_rate} Hz, every 10 ms, {p.seconds:g} s",
            ),
            "video": ArraySpec(
                (3, p.frames, p.size, p.size), "uint8", "video", units="ImageNet deviations", transforms=(IMAGENET,),
                description=f"{p.frames} frame(s) evenly over the utterance, {p.crop}, RGB",
            ),
            "text": ArraySpec((p.length,), "int32", "tokens", units="token ids", mask="text_length",
                              description="words of the transcript"),
            "text_length": ArraySpec((), "int32", description="ids of the text that are no padding"),
            **({"face": face_array(p.frames)} if p.crop == "face" else {}),
        }  # fmt: skip

    def decode(self, item: Item, name: str) -> Array:
        """One array of one utterance."""
        p, turn, path = self.parameters, self.turns[0][item.key], self.path(item.files[name][0])
        if name == "audio":
            return self._sound(path)
        if name == "face":
            return self._cut(path, turn).origin
        if name == "video":
            frames = self._cut(path, turn).frames if p.crop == "face" else self._frames(path, turn)
            return channels_first(np.stack([resize(frame, p.size, p.size) for frame in frames]))
        text = self._transcript(path).get(turn.name)
        if text is None:
            raise UnreadableError(f"has no line for {turn.name}")
        ids = self.encode(text, None, p.length) or [UNKNOWN]
        return token_array(name, ids, p.length, self.encode.padding)

    def _sound(self, path: Path) -> Array:
        p = self.parameters
        samples = read_sound(path, p.sample_rate)
        if p.audio == "mel":
            found = log_mel(samples, p.sample_rate, p.bands).T
            steps = round(p.seconds * 100)
            return np.pad(found[:, :steps], ((0, 0), (0, max(0, steps - found.shape[1]))))[None]
        length = int(p.seconds * p.sample_rate)
        padded = np.pad(samples[:length], (0, max(0, length - len(samples))))
        return log_spectrogram(padded, _N_FFT, _HOP)[None]

    def _frames(self, path: Path, turn: Turn) -> list[Array]:
        """Frames evenly over the utterance, cropped to the speaker as asked for."""
        length, count = turn.end - turn.start, self.parameters.frames
        times = [turn.start + (i + 0.5) * length / count for i in range(count)]
        return [self._crop(frame, turn) for frame in frames_at(path, times)]

    def _cut(self, path: Path, turn: Turn) -> Cut:
        return self._faces.of(turn.name, partial(self._frames, path, turn))

    @cached_property
    def _faces(self) -> Faces:
        return Faces(self.parameters.margin)

    def _crop(self, frame: Array, turn: Turn) -> Array:
        """The speaker's part of a frame; who wears markers (the dialogue's letter) sits on the left."""
        height, width = frame.shape[:2]
        if self.parameters.crop == "full":
            return frame
        first = 0 if turn.speaker[-1] == turn.dialogue[5] else width // 2
        if self.parameters.crop == "half":
            return np.ascontiguousarray(frame[:, first : first + width // 2])
        rows = [round(share * height) for share in _ROWS]
        columns = [first + round(share * (width // 2)) for share in _COLUMNS]
        return np.ascontiguousarray(frame[rows[0] : rows[1], columns[0] : columns[1]])

    def _transcript(self, path: Path) -> dict[str, str]:
        """Utterance -> words; kept, since a dialogue has many."""
        known: dict[Path, dict[str, str]] = self.__dict__.setdefault("_transcripts", {})
        if path not in known:
            lines = read_encoded(path)[0].splitlines()
            known[path] = {m[1]: m[2].strip() for line in lines if (m := _LINE.match(line))}
        return known[path]

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The built-in vocabulary: words of the transcripts of all samples."""
        texts = []
        for turn in self.turns[0].values():
            path = self.path(f"{self.base}Session{turn.session}/dialog/transcriptions/{turn.dialogue}.txt")
            with contextlib.suppress(UnreadableError):  # counted where it is decoded
                texts.append(self._transcript(path).get(turn.name, ""))
        return learn_vocabulary(texts, 1 << 20, self.parameters.min_count)

    @cached_property
    def encode(self) -> Tokenizer:
        """Text to ids."""
        p = self.parameters
        return FolderTokenizer(p.tokenizer, p.special) if p.tokenizer else WordTokenizer(self.words)
