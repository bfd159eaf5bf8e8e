"""What an experiment is about: a history's start, prompts and benign task; its fine-tunes and their cache."""

from revlens.storage import cache_root as cache_root
from revlens.subject.alignment_phase import AlignmentPhase as AlignmentPhase
from revlens.subject.benign import CAPTURE_STEPS as CAPTURE_STEPS
from revlens.subject.benign import BenignRun as BenignRun
from revlens.subject.benign import benign_start as benign_start
from revlens.subject.benign import capture_steps as capture_steps
from revlens.subject.benign import check_steps as check_steps
from revlens.subject.cache import cache_key as cache_key
from revlens.subject.cache import source_digest as source_digest
from revlens.subject.protocol import Material as Material
from revlens.subject.protocol import Subject as Subject
from revlens.subject.user import UserHistory as UserHistory
from revlens.subject.user_material import ProbeFiles as ProbeFiles
