"""Readers of raw files: sound, video, images, faces, texts, pickles, volumes. Each imports its library when used."""

from equimodal.data.prepare.readers._arrays import read_array
from equimodal.data.prepare.readers._faces import Cut, Faces, check_margin, face_array
from equimodal.data.prepare.readers._images import IMAGENET, Fit, Interpolation, read_image, resize
from equimodal.data.prepare.readers._pickles import read_pickle
from equimodal.data.prepare.readers._sound import log_mel, log_spectrogram, read_sound, repeat
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
    read_encoded,
    read_lines,
    read_text,
    token_array,
)
from equimodal.data.prepare.readers._video import (
    channels_first,
    even_frames,
    frame_range,
    frames_at,
    grid_frames,
    spread,
)
from equimodal.data.prepare.readers._volumes import Volume, cut, read_volume, same_place, standardised, whole_numbers

__all__ = [
    "CLEANERS",
    "IMAGENET",
    "SPECIALS",
    "UNKNOWN",
    "Clean",
    "Cut",
    "Faces",
    "Fit",
    "FolderTokenizer",
    "Interpolation",
    "Tokenizer",
    "Volume",
    "WordTokenizer",
    "channels_first",
    "check_margin",
    "clean",
    "cut",
    "decode",
    "even_frames",
    "face_array",
    "frame_range",
    "frames_at",
    "grid_frames",
    "learn_vocabulary",
    "log_mel",
    "log_spectrogram",
    "read_array",
    "read_encoded",
    "read_image",
    "read_lines",
    "read_pickle",
    "read_sound",
    "read_text",
    "read_volume",
    "repeat",
    "resize",
    "same_place",
    "spread",
    "standardised",
    "token_array",
    "whole_numbers",
]
