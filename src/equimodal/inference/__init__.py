"""From unimodal and fused outputs to one prediction: mean, uncertainty or precision weights, product, or joint head."""

from equimodal.inference._custom import InferenceRule, Rule, needs_of, rule_name, rule_names
from equimodal.inference._inference import Inference
from equimodal.inference._named import PAPER_RULES as PAPER_RULES
from equimodal.inference._named import Energy, Evidential
from equimodal.inference._prediction import Prediction
from equimodal.inference._rules import MEASURES_OF as MEASURES_OF
from equimodal.inference._rules import RULES, apply_rule, rules_for
from equimodal.inference._rules import RuleName as RuleName
from equimodal.inference._rules import check_rule as check_rule
from equimodal.inference._temperature import at_temperature as at_temperature
from equimodal.inference._temperature import fitted_temperature as fitted_temperature

__all__ = [
    "RULES",
    "Energy",
    "Evidential",
    "Inference",
    "InferenceRule",
    "Prediction",
    "Rule",
    "apply_rule",
    "needs_of",
    "rule_name",
    "rule_names",
    "rules_for",
]
