"""From unimodal and fused outputs to one prediction: the joint head, a mean with weights of some kind, or a fit."""

from equimodal.inference._candidates import ORDER, RuleScore
from equimodal.inference._candidates import TEMPERED as TEMPERED
from equimodal.inference._candidates import alone as alone
from equimodal.inference._candidates import compare as compare
from equimodal.inference._custom import InferenceRule, Rule, needs_of, rule_name, rule_names
from equimodal.inference._evidence import PIXELS_PER_IMAGE as PIXELS_PER_IMAGE
from equimodal.inference._evidence import Evidence as Evidence
from equimodal.inference._evidence import thinned as thinned
from equimodal.inference._folds import FOLDS as FOLDS
from equimodal.inference._folds import Groups as Groups
from equimodal.inference._inference import Inference
from equimodal.inference._named import PAPER_RULES as PAPER_RULES
from equimodal.inference._named import Energy, Evidential
from equimodal.inference._prediction import Prediction
from equimodal.inference._rules import MEASURES_OF as MEASURES_OF
from equimodal.inference._rules import RULES, apply_rule, rules_for
from equimodal.inference._rules import RuleName as RuleName
from equimodal.inference._rules import check_rule as check_rule
from equimodal.inference._skill import JOINT, Expert, SkillPool
from equimodal.inference._skill_fit import FEWEST_IMAGES, FEWEST_SAMPLES
from equimodal.inference._skill_fit import fit_skill as fit_skill
from equimodal.inference._temperature import at_temperature as at_temperature
from equimodal.inference._temperature import fitted_temperature as fitted_temperature

__all__ = [
    "FEWEST_IMAGES",
    "FEWEST_SAMPLES",
    "JOINT",
    "ORDER",
    "RULES",
    "Energy",
    "Evidential",
    "Expert",
    "Inference",
    "InferenceRule",
    "Prediction",
    "Rule",
    "RuleScore",
    "SkillPool",
    "apply_rule",
    "needs_of",
    "rule_name",
    "rule_names",
    "rules_for",
]
