"""What a user has to know about CMU-MOSI and CMU-MOSEI."""

from __future__ import annotations

from equimodal.data.prepare._facts import Facts, Published

_LAYOUT = """\
RAW/
  aligned_50.pkl, or mosi_data.pkl            --layout aligned (or Processed/aligned_50.pkl, MOSI/..., any --file)
  unaligned_50.pkl, or mosi_data_noalign.pkl  --layout unaligned

each a dictionary with train, valid and test, and in each of them
  text, vision, audio          (N, T, F) numbers
  labels (N, 1, 1), or regression_labels (N,)
  id                           list of names, or (N, 3) names with start and end
  audio_lengths, vision_lengths   (N,), optional
  text_bert                    (N, 3, T) token numbers, mask, segments, optional"""
_WHERE = (
    "feature files of MMSA: https://github.com/thuiar/MMSA (links in its README)",
    "feature files of MulT: https://github.com/yaohungt/Multimodal-Transformer (link in its README)",
    "videos and other features: https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK (often not reachable)",
)
_PROTOCOLS = (
    (
        "official",
        "the parts of the file, which are those of the CMU SDK; videos are in one part only, which is checked and, "
        "where a file does it otherwise, marked as overlapping.",
    ),
    (
        "official-nonzero",
        "the same without the samples whose score is exactly 0, for the figure that the literature calls negative "
        "against positive (`accuracy2_without_zero` of the regression task says it of a model trained on all).",
    ),
)
_NOTES = (
    "Which features these are decides the numbers more than the method does: MMSA's text is BERT (768 numbers per "
    "token, 50 tokens), MulT's is GloVe (300 numbers per word). Say which file was used; its hash is in the manifest.",
    "Pickles run programs when they are read the usual way. Here they are read by a reader that knows arrays, "
    "dictionaries, lists, text and numbers, and refuses everything else without running it.",
    "COVAREP puts -inf where a frame is silent. As in the released loaders of MulT, MMSA and CGGM these become 0; so "
    "do +inf and NaN. The manifest has the number of each per part and modality (notes.cleaned).",
    "Which steps are real: the lengths of the file where it has them, the mask of its token numbers for text, "
    "otherwise every step that is not zero throughout; padding may be at either end. A sample without any real step "
    "in a modality keeps one step of zeros (notes.empty counts them).",
    "Scores are means of several raters in [-3, 3]. Binary accuracy is reported in three ways: below 0 against the "
    "rest (target `non-negative`), above 0 against the rest (target `positive`; CGGM's released code), and below "
    "against above 0 with the zeros left out (protocol `official-nonzero`). They differ by 1 to 2 points.",
)
_LICENCE = "for academic research; the videos belong to their makers (YouTube)"

MOSI = Facts(
    title="CMU-MOSI",
    summary="2,199 sentences of 93 film reviews with their sentiment in [-3, 3]; features of words, face and voice.",
    where=_WHERE,
    licence=_LICENCE,
    citation=(
        "Zadeh, Zellers, Pincus, Morency. MOSI: multimodal corpus of sentiment intensity and subjectivity analysis in "
        "online opinion videos. arXiv:1606.06259, 2016.",
    ),
    layout=_LAYOUT,
    size="raw 0.4 GB (aligned) to 0.6 GB; prepared 0.4 GB (MMSA, aligned)",
    protocols=_PROTOCOLS,
    published=(
        Published("CGGM", "MAE", "0.747", "Guo et al. 2024 (CGGM), CMU-MOSI results", "file not named"),
        Published("joint (concatenation)", "accuracy", "71.13", "MIDAS, table of results", "2 classes"),
        Published("MIDAS", "accuracy", "74.00", "MIDAS, table of results", "2 classes"),
        Published("ReconBoost", "accuracy", "77.97", "Hua et al. 2024 (ReconBoost), name of the checkpoint"),
    ),
    notes=(
        *_NOTES,
        "1,284 / 229 / 686 samples in the files of MMSA and MulT: text 768 (MMSA) or 300 (MulT), audio 5, vision 20 "
        "numbers per step; 50 steps aligned, otherwise 50 / 375 / 500.",
    ),
)

MOSEI = Facts(
    title="CMU-MOSEI",
    summary="About 23,000 sentences of 3,228 videos with their sentiment in [-3, 3]; features of words, face, voice.",
    where=_WHERE,
    licence=_LICENCE,
    citation=(
        "Zadeh, Liang, Poria, Cambria, Morency. Multimodal language analysis in the wild: CMU-MOSEI dataset and "
        "interpretable dynamic fusion graph. ACL 2018.",
    ),
    layout=_LAYOUT.replace("mosi_data.pkl     ", "mosei_senti_data.pkl").replace(
        "mosi_data_noalign", "mosei_senti_data_noalign"
    ),
    size="raw 5 GB (aligned) to 13 GB; prepared 4.5 GB (MMSA, aligned). The file is held in memory while prepared",
    protocols=_PROTOCOLS,
    published=(
        Published("MMPareto", "accuracy", "81.18", "BalanceBenchmark, table of results", "2 classes"),
        Published("ReconBoost", "accuracy", "81.01", "BalanceBenchmark, table of results", "2 classes"),
        Published("text alone", "accuracy", "80.58", "BalanceBenchmark, table of results", "2 classes"),
        Published("joint (concatenation)", "accuracy", "78.99", "BalanceBenchmark, table of results", "2 classes"),
        Published("MLA", "accuracy", "78.65", "BalanceBenchmark, table of results", "2 classes; their port"),
    ),
    notes=(
        *_NOTES,
        "16,326 / 1,871 / 4,659 samples in the files of MMSA: text 768, audio 74, vision 35 numbers per step; 50 "
        "steps aligned, otherwise 50 / 500 / 500. Other files have a few hundred samples fewer.",
    ),
)
