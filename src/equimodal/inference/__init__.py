"""From unimodal and fused outputs to one prediction: mean, uncertainty or precision weights, product, or joint head."""

from equimodal.inference._custom import InferenceRule, Rule, needs_of, rule_name, rule_names
from equimodal.inference._inference import Inference
from equimodal.inference._prediction import Prediction
from equimodal.inference._rules import MEASURES_OF, RULES, RuleName, apply_rule, check_rule, rules_for
from equimodal.inference._temperature import at_temperature, fitted_temperature

__all__ = [
    "MEASURES_OF",
    "RULES",
    "Inference",
    "InferenceRule",
    "Prediction",
    "Rule",
    "RuleName",
    "apply_rule",
    "at_temperature",
    "check_rule",
    "fitted_temperature",
    "needs_of",
    "rule_name",
    "rule_names",
    "rules_for",
]
