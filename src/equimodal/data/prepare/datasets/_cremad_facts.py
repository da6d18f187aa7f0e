"""What a user has to know about CREMA-D."""

from __future__ import annotations

from equimodal.data.prepare._facts import FACES, Facts, Published

_AUG = "AUG (NeurIPS 2025), table of results"
_INFOREG = "InfoReg (CVPR 2025), table of results"
_BALANCE = "BalanceBenchmark (GeWu-Lab), README, table of results"

FACTS = Facts(
    title="CREMA-D",
    summary="7,442 clips in which 91 actors say one of 12 sentences with one of 6 emotions; voice and face.",
    where=(
        "https://github.com/CheyneyComputerScience/CREMA-D (needs git-lfs; without it every file is a pointer)",
        "https://gitlab.com/cs-cooper-lab/crema-d-mirror",
    ),
    licence="Open Database License 1.0, contents under the Database Contents License 1.0",
    citation=(
        "Cao, Cooper, Keutmann, Gur, Nenkova, Verma. CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset. "
        "IEEE Transactions on Affective Computing 5(4):377-390, 2014.",
    ),
    layout="""\
RAW/
  AudioWAV/1001_DFA_ANG_XX.wav ...      ACTOR_SENTENCE_EMOTION_LEVEL
  VideoFlash/1001_DFA_ANG_XX.flv ...
LISTS/                                  only for the protocol `shared`: --lists LISTS
  train.csv, test.csv                   1001_DFA_ANG_XX,ANG""",
    size="raw about 7 GB, of which AudioWAV and VideoFlash are used; prepared 4.8 GB with the default parameters",
    protocols=(
        (
            "speaker-independent",
            "ours: 65 / 13 / 13 actors for training, validation and test, fixed by the hash of the actor's number. "
            "No published number uses it; numbers are lower than with `shared`.",
        ),
        (
            "shared",
            "the lists of OGM-GE (6,698 / 744 clips), used by nearly all papers. All 91 actors are on both sides, and "
            "every test clip has the same actor saying the same sentence in training, so it is marked as overlapping. "
            "It has no validation part; 10 % of training, stratified by class, are taken for it.",
        ),
    ),
    published=(
        Published("joint (concatenation)", "accuracy", "65.07", _AUG, "shared; chosen on the test set"),
        Published("MLA", "accuracy", "79.43", _AUG, "shared; chosen on the test set"),
        Published("LFM", "accuracy", "83.62", _AUG, "shared; chosen on the test set"),
        Published("AUG", "accuracy", "85.15", _AUG, "shared; chosen on the test set"),
        Published("joint (concatenation)", "accuracy", "66.61", _INFOREG, "shared"),
        Published("joint with unimodal losses", "accuracy", "70.81", _INFOREG, "shared"),
        Published("joint (concatenation)", "accuracy", "65.50", _BALANCE, "protocol not stated there"),
        Published("MLA", "accuracy", "72.30", _BALANCE, "their port, not the paper's own table; likewise"),
        Published("OGM-GE", "accuracy", "61.9", "Peng et al. 2022 (OGM-GE)", "shared"),
        Published("human raters, voice and face", "accuracy", "63.6", "Cao et al. 2014, abstract", "intended emotion"),
    ),
    notes=(
        "Published numbers differ by up to 15 points for the same method, with the number of frames (1, 2 or 3), the "
        "spectrogram, pre-training and the choice of the epoch on the test set. Compare within one table only.",
        "The released scripts take frames in the order of os.listdir, which depends on the file system; here they are "
        "in the order of time. OGM-GE uses one frame (`--frames 1`), MLA three.",
        "OGM-GE, MLA and MIE take whole frames, and so does the default.",
        FACES,
        "MLA's released script also has a spectrogram at 16 kHz of a random 5 seconds (n_fft 256, hop 128) and a "
        "filter bank of 128 bands; the defaults here are those of OGM-GE, which most later papers took over.",
        "In older copies one sound file is called 1040_ITH_SAD_X.wav; it is taken as 1040_ITH_SAD_XX. Some mp3 files "
        "of the release are empty; they are not used.",
        "Training in the papers crops at random from the whole frame; here from the stored one. `--size 256` keeps "
        "more.",
    ),
)
