"""The study of guards: what each method keeps of alignment, at what cost, for how long, and by which route."""

from revlens.study.carry_out import carry_out as carry_out
from revlens.study.carry_out import locate_elsewhere as locate_elsewhere
from revlens.study.claims import assess_study as assess_study
from revlens.study.config import StudyConfig as StudyConfig
from revlens.study.foresight import HARMED as HARMED
from revlens.study.foresight import PREDICTORS as PREDICTORS
from revlens.study.foresight import foreseen as foreseen
from revlens.study.layout import StudyLayout as StudyLayout
from revlens.study.plan import PARTS as PARTS
from revlens.study.plan import Run as Run
from revlens.study.plan import plan as plan
from revlens.study.run import load_config as load_config
from revlens.study.run import made_by as made_by
from revlens.study.run import run_study as run_study
from revlens.study.run import tabulate_and_save as tabulate_and_save
from revlens.study.summaries import against_baseline as against_baseline
from revlens.study.summaries import carried as carried
from revlens.study.summaries import chosen_on_other_seeds as chosen_on_other_seeds
from revlens.study.summaries import cumulative_reversion as cumulative_reversion
from revlens.study.summaries import mean_of as mean_of
from revlens.study.summaries import settings as settings
from revlens.study.tables import RUN_COLUMNS as RUN_COLUMNS
from revlens.study.tables import STUDY_TABLES as STUDY_TABLES
from revlens.study.tables import StudyTables as StudyTables
from revlens.study.tables import tabulate as tabulate
