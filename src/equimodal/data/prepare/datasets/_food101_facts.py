"""What a user has to know about UPMC Food-101."""

from __future__ import annotations

from equimodal.data.prepare._facts import Facts, Published

_BALANCE = "BalanceBenchmark (GeWu-Lab), README, table of results"
_MIDAS = "MIDAS, table of results"

FACTS = Facts(
    title="UPMC Food-101",
    summary="About 90,700 web photographs of 101 dishes, found by an image search, each with the title of its page and "
    "with the recipe page.",
    where=(
        "https://visiir.isir.upmc.fr/explore (the authors; formerly visiir.lip6.fr)",
        "https://www.kaggle.com/datasets/gianmarco96/upmcfood101 (images and titles; the copy that QMF names)",
    ),
    licence="none stated; collected from the web for research. Cite the paper.",
    citation=(
        "Wang, Kumar, Thome, Cord, Precioso. Recipe recognition with large multimodal food dataset. IEEE International "
        "Conference on Multimedia & Expo Workshops (CEA), 2015.",
    ),
    layout="""\
RAW/
  images/train/apple_pie/apple_pie_0.jpg ...
  images/test/apple_pie/apple_pie_3.jpg ...
  texts/train_titles.csv, test_titles.csv     image,title,class without a header (--text titles)
  texts_txt/apple_pie/apple_pie_0.txt ...     the pages as text (--text pages)
LISTS/                                        optional: --lists LISTS
  train.jsonl, dev.jsonl, test.jsonl          {"img": "images/train/...", "label": ...} per line""",
    size="raw about 6 GB; prepared 14 GB with the default parameters, 3.7 GB with --size 112",
    protocols=(
        (
            "official",
            "the folders images/train and images/test of the authors, about 67,970 and 22,715 images with a title. "
            "There is no validation part: 10 % of the training images of each class are taken, by the SHA-256 of their "
            "names, or those of `lists`. MMBT drew 5,000 without a seed; QMF publishes such lists (62,971 / 5,000 / "
            "22,715), and MLA took over their training and test parts.",
        ),
    ),
    published=(
        Published("CGGM", "accuracy", "92.94", "Guo et al. 2024 (CGGM), NeurIPS", "BERT for the text"),
        Published("joint (concatenation)", "accuracy", "91.65", _BALANCE),
        Published("text alone", "accuracy", "86.19", _BALANCE),
        Published("image alone", "accuracy", "65.67", _BALANCE),
        Published("MLA", "accuracy", "93.14", _BALANCE, "their port, not the paper's own table"),
        Published("OGM", "accuracy", "91.81", _BALANCE),
        Published("MMPareto", "accuracy", "92.82", _BALANCE),
        Published("joint (concatenation)", "accuracy", "91.35", _MIDAS),
        Published("LFM", "accuracy", "92.15", _MIDAS),
        Published("MIDAS", "accuracy", "93.46", _MIDAS, "standard deviation 0.36"),
    ),
    notes=(
        "Text alone reaches about 86 %, and all methods lie within two points above joint training: differences below "
        "a point need several seeds.",
        "Titles often hold the name of the dish, which is the label. Pages are longer and hold it as well. Papers "
        "differ in which of the two they use, and say so seldom.",
        "Labels come from the search query and were not checked, in training and test alike.",
        "Of the pages about 4 % are missing (MMBT kept 86,796 images); `--text pages` needs `--max-missing 0.05`, and "
        "a larger `--length` (MMBT: 512).",
        "`--clean titles` replaces punctuation by blanks and lowers the case, as MMBT's script does; QMF and MLA train "
        "on such titles. CGGM uses 50 tokens with [CLS] and [SEP], MLA 256 without.",
        "CGGM's released script reports the best accuracy on its validation part (src/foodtrain.py) and never "
        "evaluates the test part; its lists are not published. It trains small transformers on frozen "
        "BERT and ViT features.",
        "A newer release than that of 2015 exists at the authors' site; numbers of images differ slightly between "
        "copies. The manifest says how many were found.",
    ),
)
