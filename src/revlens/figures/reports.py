"""The report of each plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from revlens.figures.arms_report import ARMS_REPORT
from revlens.figures.guards_report import GUARDS_REPORT
from revlens.figures.report import Report

#: By the name of the plan.
REPORTS: Mapping[str, Report[Any, Any]] = {report.plan: report for report in (ARMS_REPORT, GUARDS_REPORT)}
