"""What a user has to know about MMSD."""

from __future__ import annotations

from equimodal.data.prepare._facts import Facts, Published

_AUG = "AUG (NeurIPS 2025), table of results"

FACTS = Facts(
    title="MMSD (multi-modal sarcasm detection)",
    summary="24,635 English tweets with an image; sarcastic or not: in training by hashtags such as #sarcasm (which "
    "are removed), in validation and test checked by annotators.",
    where=(
        "https://github.com/headacheboy/data-of-multimodal-sarcasm-detection (texts; links to the images)",
        "https://github.com/JoeYing1019/MMSD2.0 (the corrected texts and labels; the same images)",
    ),
    licence="none stated; released for research. The tweets are under the terms of Twitter.",
    citation=(
        "Cai, Cai, Wan. Multi-modal sarcasm detection in Twitter with hierarchical fusion model. ACL, 2019.",
        "Qin, Huang, Chen, Cai, Zhang, Liang, Che, Xu. MMSD2.0: towards a reliable multi-modal sarcasm detection "
        "system. Findings of ACL, 2023.",
    ),
    layout="""\
RAW/
  dataset_image/ID.jpg ...                    the four archives, unpacked into one folder
  text/train.txt, valid2.txt, test2.txt       --version mmsd: ['ID', 'text', 1] per line, two labels but in train.txt
  text_json_final/train.json, valid.json, test.json   --version mmsd2: [{"image_id": ..., "text": ..., "label": ...}]
Also data/dataset_image/ and data/text_json_final/, as in the repository of MMSD2.0.""",
    size="raw about 2.8 GB; prepared 3.7 GB with the default parameters",
    protocols=(
        (
            "official",
            "19,816 / 2,410 / 2,409 posts of the authors' lists, after those with one of 11 words (sarcasm, irony, "
            "joke, `<url>` ...) are left out, as in the authors' code: of the 29,040 lines of train.txt 9,224 go. "
            "Users are unknown, and 356 training posts repeat the text of another.",
        ),
    ),
    published=(
        Published("LFM", "accuracy", "84.97", _AUG, "MMSD; chosen on the test set"),
        Published("AUG", "accuracy", "85.10", _AUG, "MMSD; chosen on the test set"),
        Published("MIDAS", "accuracy", "87.16", "MIDAS, table of results", "MMSD"),
    ),
    notes=(
        "Known leakage, documented by MMSD2.0: hashtags and certain words tell the class without any sarcasm being "
        "understood. We counted in the training part: 66.1 % of the sarcastic posts have a hashtag, 33.4 % of the "
        "others; all 404 posts with `<num>` and all 332 with emoji_15 are sarcastic, 277 of 282 with emoji_623 are "
        "not. A text model alone profits from this; report MMSD2.0 (`--version mmsd2`) as well.",
        "MMSD2.0 keeps posts and parts, removes such cues from the texts, and labels anew what was taken as not "
        "sarcastic for want of a hashtag: 9,576 of 19,816 training posts are sarcastic there, 8,642 in MMSD.",
        "Validation and test of MMSD have two labels: by hashtag, and by annotators. They differ for 87 of 2,410 and "
        "144 of 2,409 posts. The authors' code takes the annotators' (`--labels people`, the default); copies on the "
        "web with one label do not say which it is.",
        "The .json copy of MMSD in the repository of MMSD2.0 (text_json_clean) lacks 23 validation and 36 test posts; "
        "it is not read.",
        "Each line of the .txt lists is a Python list. It is read as a literal; the authors' code runs it (`eval`).",
        "MIE reads truncated images as far as they go; here they are listed as unreadable.",
    ),
)
