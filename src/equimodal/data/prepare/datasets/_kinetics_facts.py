"""What a user has to know about Kinetics-Sounds."""

from __future__ import annotations

from equimodal.data.prepare._facts import Facts, Published

CLASSES = (
    "blowing nose", "blowing out candles", "bowling", "chopping wood", "dribbling basketball", "laughing",
    "mowing lawn", "playing accordion", "playing bagpipes", "playing bass guitar", "playing clarinet", "playing drums",
    "playing guitar", "playing harmonica", "playing keyboard", "playing organ", "playing piano", "playing saxophone",
    "playing trombone", "playing trumpet", "playing violin", "playing xylophone", "ripping paper", "shoveling snow",
    "shuffling cards", "singing", "stomping grapes", "tap dancing", "tapping guitar", "tapping pen", "tickling",
)  # fmt: skip
_AUG = "AUG (NeurIPS 2025), table of results"
_INFOREG = "InfoReg (CVPR 2025), table of results"
_BALANCE = "BalanceBenchmark (GeWu-Lab), README, table of results"

FACTS = Facts(
    title="Kinetics-Sounds",
    summary="Ten-second YouTube clips of 31 actions of Kinetics-400 that can be seen and heard; sound and video.",
    where=(
        "https://github.com/cvdfoundation/kinetics-dataset (Kinetics-400, of which 31 classes are used)",
        "https://www.deepmind.com/open-source/kinetics (the csv files)",
    ),
    licence="annotations CC BY 4.0; the videos are under the terms of YouTube and of their authors",
    citation=(
        "Arandjelovic, Zisserman. Look, Listen and Learn. ICCV 2017 (the choice of classes).",
        "Kay et al. The Kinetics Human Action Video Dataset. arXiv:1705.06950, 2017.",
    ),
    layout="""\
RAW/
  train/playing_drums/-3B32lodo2M_000059_000069.mp4 ...     CLASS with spaces or _
  val/ ...
  test/ ...                        where its labels are known
or, with --annotations CSV, any folders of such files:
CSV/
  train.csv, val.csv (or validate.csv), test.csv            label,youtube_id,time_start,time_end,split""",
    size="raw about 25 GB for the 31 classes; prepared about 1.5 MB per clip, 28 GB for 19,000 clips",
    protocols=(
        ("kinetics", "the parts of Kinetics-400: about 15,000 / 1,900 / 1,900 clips when all are there."),
        (
            "train-val",
            "for downloads without labelled test clips: the validation part of Kinetics is the test; 10 % of training, "
            "stratified by class, are the validation.",
        ),
    ),
    published=(
        Published("joint (concatenation)", "accuracy", "64.55", _AUG, "chosen on the test set"),
        Published("LFM", "accuracy", "72.53", _AUG, "chosen on the test set"),
        Published("AUG", "accuracy", "72.63", _AUG, "chosen on the test set"),
        Published("joint (concatenation)", "accuracy", "65.67", _INFOREG),
        Published("joint with unimodal losses", "accuracy", "68.71", _INFOREG),
        Published("MMPareto", "accuracy", "71.11", _INFOREG),
        Published("joint (concatenation)", "accuracy", "65.63", _BALANCE),
        Published("MLA", "accuracy", "69.05", _BALANCE, "their port, not the paper's own table"),
    ),
    notes=(
        "Clips vanish from YouTube, so no two groups have the same set. Up to 30 % may be missing by default "
        "(`--max-missing`); manifest.json lists what was not found and, under notes.found, the clips of each class and "
        "part. Publish these counts with every number.",
        "Look, Listen and Learn names 34 classes; the labels of some have changed in Kinetics-400 since. The 31 "
        "classes here are those that IBM/AdaMML names (its issue 3) and that most later papers use; others have 32 or "
        "34.",
        "The defaults are those of MIE (IGM): log STFT of 10 s at 35,400 Hz. MLA takes a filter bank of 128 bands, "
        "1,024 frames; OGM-GE a standardised spectrogram of 257 x 1,004. Another input means another number.",
    ),
)
