"""What a user has to know about IEMOCAP."""

from __future__ import annotations

from equimodal.data.prepare._facts import FACES, Facts, Published

_WHERE = ("https://sail.usc.edu/iemocap/iemocap_release.htm (request form)",)
_LICENCE = "release form of the University of Southern California: academic research, no redistribution"
_CITATION = (
    "Busso, Bulut, Lee, Kazemzadeh, Mower, Kim, Chang, Lee, Narayanan. IEMOCAP: interactive emotional dyadic motion "
    "capture database. Language Resources and Evaluation 42(4):335-359, 2008.",
)
_PUBLISHED = (
    Published(
        "CGGM", "accuracy", "75.38", "Guo et al. 2024 (CGGM), IEMOCAP results", "4 classes, feature files, fold 1"
    ),
)

RAW = Facts(
    title="IEMOCAP",
    summary="Dialogues of ten actors in five sessions, 10,039 utterances with emotions; voice, video and words.",
    where=_WHERE,
    licence=_LICENCE,
    citation=_CITATION,
    layout="""\
RAW/ (or RAW/IEMOCAP_full_release/)
  Session1/ ... Session5/
    dialog/EmoEvaluation/Ses01F_impro01.txt      [6.2901 - 8.2357] Ses01F_impro01_F000 neu [2.5000, 2.5000, 2.5000]
    dialog/transcriptions/Ses01F_impro01.txt     Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.
    dialog/avi/DivX/Ses01F_impro01.avi           (or dialog/avi/Ses01F_impro01.avi) both speakers side by side
    sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav
LISTS/                                           only with --lists LISTS, either or both of
  my_train_iemo.txt, my_test_iemo.txt            MLA's lists (protocol `mla`)
  trn_int2name.npy, val_int2name.npy, tst_int2name.npy    of target/1 of the feature files (protocol `cggm`)""",
    size="raw 18 GB; prepared 4 GB with the default parameters",
    protocols=(
        (
            "session1 ... session5",
            "five folds over sessions, so that no speaker is in two parts: one session for testing, the next one for "
            "validation. The usual speaker-independent protocol; some papers choose the epoch on the test session.",
        ),
        (
            "mla",
            "MLA's lists: 3,318 / 1,107 utterances drawn at random, with all ten speakers and most dialogues in every "
            "part, so it is marked as overlapping. The 1,106 that are in neither list are its validation part (the "
            "script draws 60 / 20 / 20 % of 5,531).",
        ),
        ("cggm", "the speakers of fold 1 of the feature files that CGGM reads (see `iemocap-features`)."),
    ),
    published=_PUBLISHED,
    notes=(
        "Four classes: angry 1,103, happy 1,636 (happy 595 and excited 1,041), neutral 1,708, sad 1,084: 5,531 "
        "utterances. With `--excited drop` happy has 595. Other labels (frustrated, surprised, fearful, no agreement "
        "...) are no samples; the manifest counts them.",
        "A dialogue is filmed with both actors side by side, the one who wears markers (the letter in the dialogue's "
        "name) on the left. `--crop speaker` takes the 256 x 256 pixels around the speaker's head and shoulders, "
        "`half` the speaker's half of the frame, `full` all of it. MLA used faces from a detector that is not in its "
        "repository; `--crop face` is the nearest to it: the face in what `speaker` takes.",
        FACES,
        "The numbers of words differ between tokenizers: by default the words of all transcripts are the vocabulary "
        "(ids say nothing about labels); `--tokenizer FOLDER` takes one of transformers, as MLA does "
        "(bert-base-uncased).",
        "MLA pads filter banks with zeros after the logarithm, and takes the frame in the middle of os.listdir; here "
        "it is the one in the middle of the utterance.",
    ),
)

FEATURES = Facts(
    title="IEMOCAP, feature files of MMIN",
    summary="5,531 utterances of four emotions as features: ComParE voice, DenseNet face, BERT words; used by CGGM.",
    where=(
        "feature files of MMIN and IF-MMIN: https://github.com/AIM3-RUC/MMIN, https://github.com/ZhuoYulang/IF-MMIN",
        *_WHERE,
    ),
    licence=_LICENCE,
    citation=(
        *_CITATION,
        "Zhao, Li, Jin. Missing modality imagination network for emotion recognition with uncertain missing "
        "modalities. ACL 2021.",
    ),
    layout="""\
RAW/ (IEMOCAP_features_2021)
  A/comparE.h5      one dataset per utterance, (T, 130)
  V/denseface.h5    (50, 342)
  L/bert_large.h5   (22, 1024)
  target/1/ ... target/10/    {trn,val,tst}_label.npy (N, 4) one-hot, {trn,val,tst}_int2name.npy (N, 1) names""",
    size="raw 2.5 GB; prepared 2.1 GB",
    protocols=(
        (
            "cv1",
            "fold 1 of the files, which CGGM's code takes. Speakers are not shared where the file keeps them apart, "
            "which is checked; otherwise the fold is marked as overlapping.",
        ),
        ("cv2 ... cv10", "the other folds, in the same way."),
    ),
    published=_PUBLISHED,
    notes=(
        "The voice is padded or cut to 350 steps, as in CGGM's loader; its mask says which are real. Steps of face "
        "and words are padded in the files: steps that are zero throughout are taken as padding.",
        "comparE_mean_std.h5 is not needed: features are standardised by the training samples of the fold in use.",
        "The order of the classes is not written in the files. With all 5,531 utterances it is checked against the "
        "known counts (angry 1,103, happy 1,636, neutral 1,708, sad 1,084); `--classes` changes it.",
    ),
)
