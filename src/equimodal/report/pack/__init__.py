"""What reviewers ask of a comparison: nine answers with numbers, and figures for a paper."""

from equimodal.report.pack._answers import QUESTIONS, Answer, answers_of, answers_text, judged_entry
from equimodal.report.pack._figures import figures_of

__all__ = ["QUESTIONS", "Answer", "answers_of", "answers_text", "figures_of", "judged_entry"]
