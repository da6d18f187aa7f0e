"""The formulas: tensors in, tensors out. No module, no optimizer, no state, no input or output.

References:
    [Zhang2024] Zhang et al., Multimodal Representation Learning by Alternating Unimodal Adaptation, CVPR 2024,
        arXiv 2311.10707 (MLA).
    [Guo2024] Guo et al., Classifier-guided Gradient Modulation for Enhanced Multimodal Learning, NeurIPS 2024,
        arXiv 2411.01409 (CGGM).
    [Jiang2025] Interactive multimodal learning via flat gradient modification, IJCAI 2025, arXiv 2407.04587 (MIE, IGM).
    [Foret2021] Foret et al., Sharpness-aware minimization, ICLR 2021, arXiv 2010.01412.
    [Jiang2025b] Jiang et al., Rethinking Multimodal Learning from the Perspective of Mitigating Classification Ability
        Disproportion, NeurIPS 2025, arXiv 2502.20120 (AUG).
    [Hwang2025] Hwang et al., MIDAS: Misalignment-based Data Augmentation Strategy for Imbalanced Multimodal Learning,
        NeurIPS 2025, arXiv 2509.25831.
    [MASAM] Modality-aware sharpness-aware minimization, ICLR 2026, openreview AUKeDukcUi.
    [Hinton2015] Hinton et al., Distilling the knowledge in a neural network, arXiv 1503.02531.
    [Guo2017] Guo et al., On calibration of modern neural networks, ICML 2017, arXiv 1706.04599.
"""

from equimodal.functional._balance import (
    balance_terms,
    cosine_similarity,
    direction_loss,
    output_weight_gradient,
    softmax_cross_entropy_residual,
)
from equimodal.functional._boosting import lagging, residual_target
from equimodal.functional._competition import binary_jensen_shannon, cross_modal_contrast, jensen_shannon
from equimodal.functional._distillation import distillation
from equimodal.functional._misalignment import misaligned_target, shares, weak_weights
from equimodal.functional._opinions import (
    binary_uncertainty,
    fit_gaussian_scale,
    fuse_binary,
    fuse_gaussians,
    fuse_numbers,
    softmin_weights,
)
from equimodal.functional._projection import (
    flat_projector,
    orthogonal_projector_update,
    plasticity,
    project_rows,
    uncentred_covariance_sum,
)
from equimodal.functional._residuals import (
    binary_cross_entropy_residual,
    gaussian_nll,
    gaussian_nll_residual,
    soft_dice,
    softmax_backward,
)
from equimodal.functional._selection import Selection, selection_scores
from equimodal.functional._uncertainty import (
    MEASURES,
    entropy,
    fit_temperature,
    fuse,
    product_weights,
    uncertainty,
    uncertainty_weights,
)
from equimodal.functional._uncertainty import Measure as Measure

__all__ = [
    "MEASURES",
    "Selection",
    "balance_terms",
    "binary_cross_entropy_residual",
    "binary_jensen_shannon",
    "binary_uncertainty",
    "cosine_similarity",
    "cross_modal_contrast",
    "direction_loss",
    "distillation",
    "entropy",
    "fit_gaussian_scale",
    "fit_temperature",
    "flat_projector",
    "fuse",
    "fuse_binary",
    "fuse_gaussians",
    "fuse_numbers",
    "gaussian_nll",
    "gaussian_nll_residual",
    "jensen_shannon",
    "lagging",
    "misaligned_target",
    "orthogonal_projector_update",
    "output_weight_gradient",
    "plasticity",
    "product_weights",
    "project_rows",
    "residual_target",
    "selection_scores",
    "shares",
    "soft_dice",
    "softmax_backward",
    "softmax_cross_entropy_residual",
    "softmin_weights",
    "uncentred_covariance_sum",
    "uncertainty",
    "uncertainty_weights",
    "weak_weights",
]
