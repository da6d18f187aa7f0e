"""What a user has to know about MVSA-Single."""

from __future__ import annotations

from equimodal.data.prepare._facts import Facts, Published

FACTS = Facts(
    title="MVSA-Single",
    summary="4,869 tweets with an image; one annotator gave the text and the image a sentiment each: positive, "
    "neutral, negative.",
    where=(
        "http://www.mcrlab.net/research/mvsa-sentiment-analysis-on-multi-view-social-data/ (the authors)",
        "https://www.kaggle.com/datasets/vincemarcs/mvsasingle (the copy that QMF names)",
    ),
    licence="none stated; released for research. The tweets are under the terms of Twitter.",
    citation=(
        "Niu, Zhu, Pang, El Saddik. Sentiment analysis on multi-view social data. MultiMedia Modeling (MMM), 2016.",
        "Xu, Mao. MultiSentiNet: a deep semantic network for multimodal sentiment analysis. CIKM, 2017 (the rule).",
    ),
    layout="""\
RAW/
  data/1.jpg, data/1.txt ...
  labelResultAll.txt                    header ID<tab>text,image; then 1<tab>neutral,positive
LISTS/                                  optional: --lists LISTS
  train.jsonl, dev.jsonl, test.jsonl    {"img": "data/1.jpg", "label": "positive"} per line""",
    size="raw about 200 MB; prepared 680 MB with the default parameters",
    protocols=(
        (
            "random",
            "80/10/10 of each class, drawn by the SHA-256 of `seed` and number. Most papers say 8:1:1 and publish no "
            "list, so their numbers cannot be reproduced exactly.",
        ),
        (
            "listed",
            "replaces `random` when `lists` is given. Those of QMF (1,555 / 518 / 519) are used by MLA and others; "
            "they hold only the tweets whose two labels agree.",
        ),
    ),
    published=(
        Published("CCAT", "accuracy", "80.73", "CCAT, table of results", "quoted by others; protocol not checked"),
        Published("CoRiM", "accuracy", "81.12", "CoRiM (CVPR 2026), table of results", "quoted by others; likewise"),
    ),
    notes=(
        "The rule for one label of two: equal labels stay; neutral and another give the other; positive and negative "
        "contradict each other, and the tweet is left out. We counted in the authors' table: 4,869 tweets, of which "
        "358 contradict, and 4,511 stay (2,683 positive, 470 neutral, 1,358 negative). Only 2,592 have equal labels "
        "(1,398, 470, 724): `--labels agree`, what QMF and MLA use. Numbers of the two selections cannot be compared.",
        "Some texts are not UTF-8: ellipses and quotation marks are two bytes of GB 18030, which readers of Latin-1 "
        "turn into signs such as ¡. Each file is read as UTF-8, else GB 18030, else Latin-1; the manifest counts them.",
        "Retweets and templates occur several times, and nothing keeps them on one side: of the 2,592 tweets in the "
        "lists of QMF, 58 texts are in more than one part, links and punctuation aside. Users are unknown.",
        "MVSA-Multiple has the same file name with three pairs of labels per line; it is refused.",
    ),
)
