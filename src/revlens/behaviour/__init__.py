"""Behaviour: generation, refusal judges, and the rates that they give."""

from revlens.behaviour.agreement import Agreement as Agreement
from revlens.behaviour.agreement import agreement as agreement
from revlens.behaviour.classifier_judge import ClassifierJudge as ClassifierJudge
from revlens.behaviour.completions import Completion as Completion
from revlens.behaviour.completions import read_completions as read_completions
from revlens.behaviour.evaluate import count_unanswered as count_unanswered
from revlens.behaviour.evaluate import exact_match as exact_match
from revlens.behaviour.evaluate import refusal_rate as refusal_rate
from revlens.behaviour.evaluate import share_with_keywords as share_with_keywords
from revlens.behaviour.generate import generate as generate
from revlens.behaviour.guard_model_judge import GuardModelJudge as GuardModelJudge
from revlens.behaviour.judge import JUDGES as JUDGES
from revlens.behaviour.judge import Judge as Judge
from revlens.behaviour.judge import JudgeRecord as JudgeRecord
from revlens.behaviour.judge import make_judge as make_judge
from revlens.behaviour.llm_judge import LLMJudge as LLMJudge
from revlens.behaviour.phrase_judge import REFUSAL_PHRASES as REFUSAL_PHRASES
from revlens.behaviour.phrase_judge import PhraseJudge as PhraseJudge
from revlens.behaviour.phrase_judge import is_refusal as is_refusal
from revlens.behaviour.phrase_lists import PHRASE_LISTS as PHRASE_LISTS
from revlens.behaviour.phrase_lists import read_phrases as read_phrases
from revlens.behaviour.thinking import Reply as Reply
from revlens.behaviour.thinking import split_thinking as split_thinking
