"""Figures and reports, drawn from tables on disk and from nothing else."""

from revlens.figures import paper as paper
from revlens.figures.early_warning_plots import areas_figure as areas_figure
from revlens.figures.export import draw as draw
from revlens.figures.export import html as html
from revlens.figures.first_update_plot import first_update_figure as first_update_figure
from revlens.figures.lens_plots import features_figure as features_figure
from revlens.figures.lens_plots import lens_scores_figure as lens_scores_figure
from revlens.figures.lens_plots import stream_lens_figure as stream_lens_figure
from revlens.figures.plot import Plot as Plot
from revlens.figures.report import Report as Report
from revlens.figures.report import draw_all as draw_all
from revlens.figures.report import drawable as drawable
from revlens.figures.report import write_report as write_report
from revlens.figures.reports import REPORTS as REPORTS
from revlens.figures.screening_page import write_screening as write_screening
