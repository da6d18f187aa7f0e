"""Readers of raw files: media, images, texts, pickles, volumes. Each imports its library when it is used."""

from equimodal.data.prepare.readers._clips import AudioVideo, ClipParameters
from equimodal.data.prepare.readers._faces import Cut, Faces, check_margin, face_array
from equimodal.data.prepare.readers._fbank import frames_at, log_mel
from equimodal.data.prepare.readers._images import Fit, Interpolation, read_image
from equimodal.data.prepare.readers._media import (
    IMAGENET,
    channels_first,
    frame_range,
    log_spectrogram,
    read_sound,
    resize,
)
from equimodal.data.prepare.readers._pickles import read_pickle
from equimodal.data.prepare.readers._text import (
    CLEANERS,
    SPECIALS,
    UNKNOWN,
    Clean,
    FolderTokenizer,
    Tokenizer,
    WordTokenizer,
    clean,
    decode,
    learn_vocabulary,
    read_lines,
    token_array,
)
from equimodal.data.prepare.readers._volumes import cut, hash_order, read_volume, standardised

__all__ = [
    "CLEANERS",
    "IMAGENET",
    "SPECIALS",
    "UNKNOWN",
    "AudioVideo",
    "Clean",
    "ClipParameters",
    "Cut",
    "Faces",
    "Fit",
    "FolderTokenizer",
    "Interpolation",
    "Tokenizer",
    "WordTokenizer",
    "channels_first",
    "check_margin",
    "clean",
    "cut",
    "decode",
    "face_array",
    "frame_range",
    "frames_at",
    "hash_order",
    "learn_vocabulary",
    "log_mel",
    "log_spectrogram",
    "read_image",
    "read_lines",
    "read_pickle",
    "read_sound",
    "read_volume",
    "resize",
    "standardised",
    "token_array",
]
