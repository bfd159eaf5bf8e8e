"""Figures and the report, drawn from results on disk and from nothing else."""

from revlens.figures.export import draw as draw
from revlens.figures.plots import PLOTS as PLOTS
from revlens.figures.plots import drawable as drawable
from revlens.figures.report import write_report as write_report
from revlens.figures.study_plots import drawable_study as drawable_study
from revlens.figures.study_report import write_study_report as write_study_report
from revlens.figures.verify import verify_figures as verify_figures
from revlens.figures.verify import verify_study_figures as verify_study_figures
