"""The formulas: tensors in, tensors out. No module, no optimizer, no state, no input or output.

References:
    [Zhang2024] Zhang et al., Multimodal Representation Learning by Alternating Unimodal Adaptation, CVPR 2024,
        arXiv 2311.10707 (MLA).
    [Guo2024] Guo et al., Classifier-guided Gradient Modulation for Enhanced Multimodal Learning, NeurIPS 2024,
        arXiv 2411.01409 (CGGM).
    [Jiang2025] Interactive multimodal learning via flat gradient modification, IJCAI 2025, arXiv 2407.04587 (MIE, IGM).
    [Hua2024] Hua et al., ReconBoost: Boosting Can Achieve Modality Reconcilement, ICML 2024, arXiv 2405.09321.
    [Yang2024] Yang et al., Facilitating Multimodal Classification via Dynamically Learning Modality Gap, NeurIPS 2024
        (LFM).
    [Wei2024a] Wei et al., Enhancing Multimodal Cooperation via Sample-level Modality Valuation, CVPR 2024,
        arXiv 2309.06255 (SMV).
    [Huang2025] Huang et al., Adaptive Unimodal Regulation for Balanced Multimodal Information Acquisition, CVPR 2025,
        arXiv 2503.18595 (InfoReg).
    [Ma2025] Ma et al., Improving Multimodal Learning Balance and Sufficiency through Data Remixing, ICML 2025,
        arXiv 2506.11550.
    [Wei2024b] Wei et al., Diagnosing and Re-learning for Balanced Multimodal Learning, ECCV 2024, arXiv 2407.09705.
    [Foret2021] Foret et al., Sharpness-aware minimization, ICLR 2021, arXiv 2010.01412.
    [Peng2022] Peng et al., Balanced multimodal learning via on-the-fly gradient modulation, CVPR 2022,
        arXiv 2203.15332 (OGM, OGM-GE).
    [Li2023] Li et al., Boosting multi-modal model performance with adaptive gradient modulation, ICCV 2023,
        arXiv 2308.07686 (AGM).
    [Wang2020] Wang, Tran and Feiszli, What makes training multi-modal classification networks hard?, CVPR 2020,
        arXiv 1905.12681 (G-Blend).
    [Fan2023] Fan et al., PMR: Prototypical modal rebalance for multimodal learning, CVPR 2023, arXiv 2211.07089.
    [Kontras2024] Kontras et al., Improving multimodal learning with multi-loss gradient modulation, BMVC 2024,
        arXiv 2405.07930 (MLB).
    [Wei2024b] Wei et al., On-the-fly modulation for balanced multimodal learning, TPAMI 2024 (OPM).
    [Wei2024] Wei and Hu, MMPareto: Boosting multimodal learning with innocent unimodal assistance, ICML 2024,
        arXiv 2405.17730.
    [Zhang2023] Zhang et al., Provable Dynamic Fusion for Low-Quality Multimodal Data, ICML 2023,
        arXiv 2306.02050 (QMF).
    [Liu2023] Liu et al., FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023, arXiv 2306.03792.
    [Han2021] Han et al., Trusted Multi-View Classification, ICLR 2021, arXiv 2102.02051 (TMC).
    [Jiang2025b] Jiang et al., Rethinking Multimodal Learning from the Perspective of Mitigating Classification Ability
        Disproportion, NeurIPS 2025, arXiv 2502.20120 (AUG).
    [Hwang2025] Hwang et al., MIDAS: Misalignment-based Data Augmentation Strategy for Imbalanced Multimodal Learning,
        NeurIPS 2025, arXiv 2509.25831.
    [MASAM] Modality-aware sharpness-aware minimization, ICLR 2026, openreview AUKeDukcUi.
    [Hinton2015] Hinton et al., Distilling the knowledge in a neural network, arXiv 1503.02531.
    [Guo2017] Guo et al., On calibration of modern neural networks, ICML 2017, arXiv 1706.04599.
"""

from equimodal.functional._alignment import alignment_share, divergence_from_mean, released_alignment_share
from equimodal.functional._balance import (
    balance_terms,
    bounded_balance,
    cosine_similarity,
    direction_loss,
    output_weight_gradient,
    softmax_cross_entropy_residual,
)
from equimodal.functional._blending import blending_weights
from equimodal.functional._boosting import lagging, residual_target
from equimodal.functional._competition import binary_jensen_shannon, cross_modal_contrast, jensen_shannon
from equimodal.functional._confidence import true_label_probability, true_probability
from equimodal.functional._constraint import correlation, superior
from equimodal.functional._distillation import distillation
from equimodal.functional._energy import confidence_ranking, energy_confidence, energy_fusion
from equimodal.functional._evidence import combined_opinion, dirichlet_logarithms, evidence, evidential_loss
from equimodal.functional._loss_rates import rate_gradient, rate_weights
from equimodal.functional._misalignment import misaligned_target, shares, weak_weights
from equimodal.functional._modulation import (
    agm_coefficients,
    discrepancy_ratios,
    mlb_coefficients,
    ogm_coefficients,
    opm_probabilities,
    relative_strengths,
)
from equimodal.functional._opinions import (
    binary_uncertainty,
    fit_gaussian_scale,
    fuse_binary,
    fuse_gaussians,
    fuse_numbers,
    softmin_weights,
)
from equimodal.functional._pareto import norm_restoration, pareto_weights
from equimodal.functional._projection import (
    flat_projector,
    orthogonal_projector_update,
    plasticity,
    project_rows,
    remove_direction_,
    removed_direction,
    uncentred_covariance_sum,
)
from equimodal.functional._prototypes import pmr_coefficients, prototype_logits
from equimodal.functional._reconcilement import known_share
from equimodal.functional._regulation import leads, regulation_strength
from equimodal.functional._residuals import (
    binary_cross_entropy_residual,
    gaussian_nll,
    gaussian_nll_residual,
    soft_dice,
    softmax_backward,
)
from equimodal.functional._selection import Selection, encoder_selection, gradient_cosines, selection_scores
from equimodal.functional._separability import k_means, purity, scaled_to_unit
from equimodal.functional._skill import (
    constant_cross_entropy,
    cross_entropy_at,
    fit_offset,
    fit_scale_and_offsets,
    fit_slope,
    pool_gaussians,
    present_weights,
    skill,
    skill_weights,
    unexplained_share,
    weighted_sum,
)
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
from equimodal.functional._valuation import (
    bernoulli_draws,
    copies_alone,
    distance_from_uniform,
    shapley_values,
    weakest_share,
)

__all__ = [
    "MEASURES",
    "Selection",
    "agm_coefficients",
    "alignment_share",
    "balance_terms",
    "bernoulli_draws",
    "binary_cross_entropy_residual",
    "binary_jensen_shannon",
    "binary_uncertainty",
    "blending_weights",
    "bounded_balance",
    "combined_opinion",
    "confidence_ranking",
    "constant_cross_entropy",
    "copies_alone",
    "correlation",
    "cosine_similarity",
    "cross_entropy_at",
    "cross_modal_contrast",
    "direction_loss",
    "dirichlet_logarithms",
    "discrepancy_ratios",
    "distance_from_uniform",
    "distillation",
    "divergence_from_mean",
    "encoder_selection",
    "energy_confidence",
    "energy_fusion",
    "entropy",
    "evidence",
    "evidential_loss",
    "fit_gaussian_scale",
    "fit_offset",
    "fit_scale_and_offsets",
    "fit_slope",
    "fit_temperature",
    "flat_projector",
    "fuse",
    "fuse_binary",
    "fuse_gaussians",
    "fuse_numbers",
    "gaussian_nll",
    "gaussian_nll_residual",
    "gradient_cosines",
    "jensen_shannon",
    "k_means",
    "known_share",
    "lagging",
    "leads",
    "misaligned_target",
    "mlb_coefficients",
    "norm_restoration",
    "ogm_coefficients",
    "opm_probabilities",
    "orthogonal_projector_update",
    "output_weight_gradient",
    "pareto_weights",
    "plasticity",
    "pmr_coefficients",
    "pool_gaussians",
    "present_weights",
    "product_weights",
    "project_rows",
    "prototype_logits",
    "purity",
    "rate_gradient",
    "rate_weights",
    "regulation_strength",
    "relative_strengths",
    "released_alignment_share",
    "remove_direction_",
    "removed_direction",
    "residual_target",
    "scaled_to_unit",
    "selection_scores",
    "shapley_values",
    "shares",
    "skill",
    "skill_weights",
    "soft_dice",
    "softmax_backward",
    "softmax_cross_entropy_residual",
    "softmin_weights",
    "superior",
    "true_label_probability",
    "true_probability",
    "uncentred_covariance_sum",
    "uncertainty",
    "uncertainty_weights",
    "unexplained_share",
    "weak_weights",
    "weakest_share",
    "weighted_sum",
]
