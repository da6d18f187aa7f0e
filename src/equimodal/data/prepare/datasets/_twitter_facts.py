"""What a user has to know about Twitter-2015 and Twitter-2017."""

from __future__ import annotations

from equimodal.data.prepare._facts import Facts, Published

_AUG = "AUG (NeurIPS 2025), table of results"
_MIDAS = "MIDAS, table of results"
_WHERE = ("https://github.com/jefferyYu/TomBERT (the .tsv files; its README links the archive with the images)",)
_LICENCE = "none stated; released for research. The tweets are under the terms of Twitter."
_YU = "Yu, Jiang. Adapting BERT for target-oriented multimodal sentiment classification. IJCAI, 2019."
_LAYOUT = """\
RAW/                                 the folder IJCAI2019_data of the authors' archive
  twitter{year}/train.tsv, dev.tsv, test.tsv
        index  #1 Label  #2 ImageID  #3 String  #3 String     (header; test.tsv leaves out "#1 Label")
        1      2         1860693.jpg RT @ x : $T$ is great    Chuck Bass
  twitter{year}_images/*.jpg
Instead of twitter{year}/ also {other}/ of the authors' repository, or annotations/."""
_NOTES = (
    "A tweet with two targets is two samples with the same image. The label is the sentiment towards the target alone, "
    "whose place in the text is marked by $T$; without the target the task cannot be solved in such tweets. `--target "
    "pair` gives it as a second text (TomBERT), `insert` puts it back, `omit` leaves $T$. The released code of MIE "
    "does the last, and `letters` leaves a T of it, so the model cannot know the target.",
    "The header of test.tsv names four columns, its lines have five; quotation marks are part of the text. Readers "
    "that trust the header, or that treat quotation marks as quotes, get other columns or fewer lines.",
    "TomBERT's loader replaces an image that cannot be opened by 17_06_4705.jpg without a word, and MIE's reads "
    "truncated images as far as they go. Here both are listed as unreadable.",
    "MIE and papers after it choose the epoch on the test set and leave dev.tsv unused.",
)

FACTS_2015 = Facts(
    title="Twitter-2015 (target-oriented)",
    summary="5,338 pairs of a tweet with an image and a person, place or other name in it; the sentiment towards that "
    "name: negative, neutral, positive.",
    where=_WHERE,
    licence=_LICENCE,
    citation=(
        _YU,
        "Zhang, Fu, Liu, Huang. Adaptive co-attention network for named entity recognition in tweets. AAAI, 2018.",
    ),
    layout=_LAYOUT.format(year=2015, other="absa_data/twitter2015"),
    size="raw about 400 MB; prepared 800 MB with the default parameters",
    protocols=(
        (
            "official",
            "3,179 / 1,122 / 1,037 lines of the authors (368, 1,883, 928 training samples per class). We counted: none "
            "of the 3,502 images is in two parts.",
        ),
    ),
    published=(
        Published("LFM", "accuracy", "75.01", _AUG, "chosen on the test set"),
        Published("AUG", "accuracy", "75.12", _AUG, "chosen on the test set"),
        Published("MIDAS", "accuracy", "73.60", _MIDAS),
    ),
    notes=_NOTES,
)

FACTS_2017 = Facts(
    title="Twitter-2017 (target-oriented)",
    summary="5,972 pairs of a tweet with an image and a person, place or other name in it; the sentiment towards that "
    "name: negative, neutral, positive.",
    where=_WHERE,
    licence=_LICENCE,
    citation=(
        _YU,
        "Lu, Neves, Carvalho, Zhang, Ji. Visual attention model for name tagging in multimodal social media. ACL 2018.",
    ),
    layout=_LAYOUT.format(year=2017, other="absa_data/twitter"),
    size="raw about 300 MB; prepared 900 MB with the default parameters",
    protocols=(
        (
            "official",
            "3,562 / 1,176 / 1,234 lines of the authors (416, 1,638, 1,508 training samples per class). We counted: "
            "one of the 2,908 images is in two parts, so the protocol is marked as overlapping.",
        ),
    ),
    notes=_NOTES,
)
