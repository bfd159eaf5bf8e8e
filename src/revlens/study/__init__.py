"""The study of guards: what each method keeps of alignment, at what cost, for how long, and by which route."""

from revlens.study.carry_out import carry_out as carry_out
from revlens.study.carry_out import locate_elsewhere as locate_elsewhere
from revlens.study.config import StudyConfig as StudyConfig
from revlens.study.layout import StudyLayout as StudyLayout
from revlens.study.plan import PARTS as PARTS
from revlens.study.plan import Run as Run
from revlens.study.plan import plan as plan
