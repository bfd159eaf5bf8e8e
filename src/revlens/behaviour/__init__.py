"""Behaviour: generation, refusal judges, and the rates that they give."""

from revlens.behaviour.evaluate import exact_match as exact_match
from revlens.behaviour.evaluate import refusal_rate as refusal_rate
from revlens.behaviour.evaluate import share_with_keywords as share_with_keywords
from revlens.behaviour.generate import generate as generate
from revlens.behaviour.judge import Judge as Judge
from revlens.behaviour.judge import PhraseJudge as PhraseJudge
from revlens.behaviour.judge import is_refusal as is_refusal
