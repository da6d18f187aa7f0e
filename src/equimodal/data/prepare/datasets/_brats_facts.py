"""What a user has to know about BraTS 2021."""

from __future__ import annotations

from equimodal.data.prepare._facts import Facts, Published

FACTS = Facts(
    title="BraTS 2021",
    summary="Brain tumours of 1,251 patients: four MRI sequences (flair, t1ce, t1, t2) and an outline in three parts.",
    where=("https://www.synapse.org/Synapse:syn25829067 (after registration, the training data of BraTS 2021)",),
    licence="data use agreement of the challenge, to be accepted on registration; its three papers are to be cited",
    citation=(
        "Baid et al. The RSNA-ASNR-MICCAI BraTS 2021 benchmark on brain tumor segmentation and radiogenomic "
        "classification. arXiv:2107.02314, 2021.",
        "Menze et al. The multimodal brain tumor image segmentation benchmark (BRATS). IEEE Transactions on Medical "
        "Imaging 34(10), 2015.",
        "Bakas et al. Advancing The Cancer Genome Atlas glioma MRI collections with expert segmentation labels and "
        "radiomic features. Scientific Data 4, 2017.",
    ),
    layout="""\
RAW/ (or RAW/ANY_FOLDER/)
  BraTS2021_00000/
    BraTS2021_00000_flair.nii.gz, ..._t1.nii.gz, ..._t1ce.nii.gz, ..._t2.nii.gz    240 x 240 x 155, 1 mm
    BraTS2021_00000_seg.nii.gz    0 background, 1 necrotic core, 2 oedema, 4 enhancing tumour
LISTS/                            only for the protocol `given`: --lists LISTS
  train.txt, valid.txt, test.txt  one patient per line, 00000 or BraTS2021_00000""",
    size="raw 13 GB; prepared 4.2 GB (2-D, 16 slices per patient) or 21 GB (3-D, one patch of 128 x 128 x 128)",
    protocols=(
        (
            "patient-disjoint",
            "ours: 80 / 10 / 10 % of the patients, fixed by the hash of the patient's number. The share is that of "
            "the preparation that CGGM's files seem to come from (icerain-alt/brats-unet, scikit-learn, seed 21), "
            "whose lists depend on the order of os.listdir.",
        ),
        ("fold1 ... fold5", "ours: five-fold cross-validation over patients; validation is the next fold."),
        ("given", "lists of your own or of the authors; patients must not be shared."),
    ),
    published=(
        Published(
            "CGGM", "Dice WT", "76.94", "Guo et al. 2024 (CGGM), BraTS 2021 results", "2-D, one slice per patient"
        ),
    ),
    notes=(
        "Label 4 becomes 3. Regions: WT (whole tumour) = 1, 2, 3; TC (tumour core) = 1, 3; ET (enhancing) = 3. They "
        "are in the card, so that `data.task` scores by them.",
        "CGGM draws one slice per patient and epoch, from those of the first 128 that have tumour, and cuts the 160 x "
        "160 pixels in the middle (rows and columns 40 to 199 of 240). Here a fixed number of such slices is stored, "
        "evenly over the tumour; where it has fewer, the nearest slices beyond it are taken too. Its test slices are "
        "random, so its figure has a spread that was not published. Dice of slices with tumour says nothing about "
        "false alarms elsewhere in the brain.",
        "Intensities are divided by their deviation after subtraction of their mean, over the voxels above 0 of the "
        "same sequence and patient; outside they are 0. (The preparation named above takes the voxels where the sum "
        "of the four sequences is above 0; here a sequence does not depend on the others, which may be missing.) They "
        "are stored as float16, a relative error of at most 0.05 %; `--precision float32` keeps all of it.",
        "A patient without one of the sequences is kept, with that sequence marked as absent; without its outline it "
        "cannot be used.",
        "The validation part of the challenge has no outlines and is of no use here. Some patients are also in BraTS "
        "2020 and earlier: do not mix the years.",
    ),
)
