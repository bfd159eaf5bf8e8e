"""A training history: reference, aligned, and the steps of a fine-tune."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from revlens.chat_templates import check_date, check_template_kwargs, reads_clock, today
from revlens.errors import HistoryError
from revlens.history.adapter import local_source
from revlens.history.checkpoint import Checkpoint
from revlens.history.compatibility import Description, check_fits, n_layers
from revlens.history.manifest import parse_table, read_table
from revlens.history.registry import registered
from revlens.history.source import Source
from revlens.history.state_dict import StateDict
from revlens.history.step_folders import step_folders


@dataclass(frozen=True)
class TrainingHistory:
    """Ordered, phase-tagged checkpoints of one model, all read with aligned's tokenizer and chat template.

    Attributes:
        reference: an earlier, permissive checkpoint.
        aligned: where the benign fine-tune starts (step 0).
        steps: fine-tuning checkpoints, by increasing step, from 1.
        dtype: in which weights are loaded.
        any_template: allow checkpoints with chat templates of their own, which are not used.
        template_kwargs: arguments of the chat template, such as ``{"enable_thinking": False}``; every prompt,
            of every checkpoint, is rendered with them.
        template_date: the date that a chat template reads as today's, such as 2026-01-31. If None, and the
            template reads the clock, it is the day on which this history is made, for as long as it lives.

    Raises:
        HistoryError: if steps are not positive and increasing, or if checkpoints differ in architecture,
            vocabulary or (unless ``any_template``) chat template. The check reads configuration and
            tokenizer files only. Steps may lack a tokenizer, the others not.
        ConfigError: if the chat template does not read an argument, or the date has another form.
    """

    reference: Checkpoint
    aligned: Checkpoint
    steps: tuple[Checkpoint, ...] = ()
    dtype: torch.dtype = torch.float32
    any_template: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    template_date: str | None = None

    def __post_init__(self) -> None:
        numbers = [checkpoint.step for checkpoint in self.steps]
        if any(a is None or b is None or a >= b for a, b in zip([0, *numbers], numbers, strict=False)):
            raise HistoryError(f"Fine-tuning steps {numbers} must be positive and increasing.")
        aligned = Description.read(self.aligned.name, self.aligned.source)
        for checkpoint, start in ((self.reference, None), *((step, aligned) for step in self.steps)):
            description = Description.read(checkpoint.name, checkpoint.source, start)
            check_fits(description, aligned, any_template=self.any_template)
        check_template_kwargs(aligned.chat_template, self.template_kwargs)
        date = None if self.template_date is None else check_date(self.template_date)
        if date is None and reads_clock(aligned.chat_template):
            date = today()
        for name, value in {
            "reference": self._bound(self.reference, date),
            "aligned": self._bound(self.aligned, date),
            "steps": tuple(self._bound(checkpoint, date) for checkpoint in self.steps),
        }.items():
            object.__setattr__(self, name, value)

    def _bound(self, checkpoint: Checkpoint, date: str | None) -> Checkpoint:
        """The checkpoint as this history loads it."""
        return replace(
            checkpoint,
            dtype=self.dtype,
            reader=self.aligned.source,
            template_kwargs=self.template_kwargs,
            template_date=date,
        )

    @property
    def reads_clock(self) -> bool:
        """Whether the chat template writes the date."""
        return reads_clock(self.aligned.source.chat_template())

    @classmethod
    def from_sources(
        cls,
        reference: Source,
        aligned: Source,
        steps: Mapping[int, Source] | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        any_template: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
        template_date: str | None = None,
    ) -> TrainingHistory:
        """A history of any sources; ``steps`` maps optimizer updates to them; for the rest see the class."""
        return cls(
            Checkpoint(reference, "reference"),
            Checkpoint(aligned, "aligned", 0),
            tuple(Checkpoint(source, "finetune", step) for step, source in sorted((steps or {}).items())),
            dtype,
            any_template,
            template_kwargs or {},
            template_date,
        )

    @classmethod
    def from_dirs(
        cls,
        reference: str | Path,
        aligned: str | Path,
        steps: Mapping[int, str | Path] | str | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        any_template: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
        template_date: str | None = None,
    ) -> TrainingHistory:
        """A history of local directories.

        Args:
            reference: a Hugging Face directory, or a LoRA adapter on the base that it names.
            aligned: the same.
            steps: directories by optimizer updates, or a glob pattern such as ``"ft/checkpoint-*"`` of
                folders whose names end in their step. The base of LoRA adapters among them is ``aligned``.
            dtype: in which weights are loaded.
            any_template, template_kwargs, template_date: see the class.

        Raises:
            HistoryError: see `TrainingHistory`, `revlens.history.Adapter` and `revlens.history.step_folders`.
        """
        start = local_source(Path(aligned))
        folders = step_folders(steps, Path()) if isinstance(steps, str) else steps or {}
        sources = {step: local_source(Path(folder), start) for step, folder in folders.items()}
        return cls.from_sources(
            local_source(Path(reference)),
            start,
            sources,
            dtype=dtype,
            any_template=any_template,
            template_kwargs=template_kwargs,
            template_date=template_date,
        )

    @classmethod
    def from_registry(
        cls,
        model: str,
        *,
        reference: int,
        aligned: int,
        steps: Sequence[int] = (),
        dtype: torch.dtype = torch.float32,
        any_template: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
        template_date: str | None = None,
    ) -> TrainingHistory:
        """A history of published training checkpoints, by their labels in TransformerLens' registry.

        Args:
            model: such as ``"EleutherAI/pythia-70m"``.
            reference: label of an earlier checkpoint.
            aligned: label of the checkpoint from which steps count.
            steps: labels of later checkpoints; their steps in the history are the distances to ``aligned``.
            dtype: in which weights are loaded.
            any_template, template_kwargs, template_date: see the class.

        Raises:
            HistoryError: if the model or a label is unknown, and see `TrainingHistory` and
                `revlens.history.Hub`.
        """
        sources = {label - aligned: registered(model, label) for label in steps}
        return cls.from_sources(
            registered(model, reference),
            registered(model, aligned),
            sources,
            dtype=dtype,
            any_template=any_template,
            template_kwargs=template_kwargs,
            template_date=template_date,
        )

    @classmethod
    def from_state_dicts(
        cls,
        hf_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        reference: Mapping[str, Tensor],
        aligned: Mapping[str, Tensor],
        steps: Mapping[int, Mapping[str, Tensor]] | None = None,
        dtype: torch.dtype = torch.float32,
        any_template: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
        template_date: str | None = None,
    ) -> TrainingHistory:
        """A history of weights in memory.

        Args:
            hf_model: says the architecture; it is copied at every load.
            tokenizer: for all checkpoints.
            reference: state dict of an earlier, permissive checkpoint.
            aligned: state dict where the fine-tune starts.
            steps: state dicts by optimizer updates. ``model.state_dict()`` shares memory with the model:
                clone its tensors if training goes on.
            dtype: in which weights are loaded.
            any_template, template_kwargs, template_date: see the class.

        Raises:
            HistoryError: if a state dict does not fit the model, or two of them are the same memory.
        """
        weights = {"reference": reference, "aligned": aligned} | {
            f"step-{step}": tensors for step, tensors in (steps or {}).items()
        }
        seen: dict[tuple[int, ...], str] = {}
        for name, tensors in weights.items():
            memory = tuple(tensors[key].data_ptr() for key in sorted(tensors))
            if memory in seen:
                raise HistoryError(
                    f"{seen[memory]} and {name} are the same memory, so they hold the same weights; "
                    "clone the tensors when you keep them: "
                    "{k: v.clone() for k, v in model.state_dict().items()}."
                )
            seen[memory] = name
        sources = {name: StateDict(hf_model, tokenizer, tensors) for name, tensors in weights.items()}
        fine_tuned = {step: sources[f"step-{step}"] for step in steps or {}}
        return cls.from_sources(
            sources["reference"],
            sources["aligned"],
            fine_tuned,
            dtype=dtype,
            any_template=any_template,
            template_kwargs=template_kwargs,
            template_date=template_date,
        )

    @classmethod
    def from_manifest(cls, path: str | Path) -> TrainingHistory:
        """The history in a TOML file, with the keys of `from_table`; folders are relative to the file.

        Raises:
            HistoryError: if the file cannot be read, and see `from_table`.
        """
        return cls.from_table(read_table(Path(path)), Path(path).parent)

    @classmethod
    def from_table(cls, table: Mapping[str, Any], root: Path) -> TrainingHistory:
        """The history in a table of a configuration file.

        Args:
            table: ``reference``, ``aligned``, and optionally ``steps``, ``dtype`` (float32, bfloat16 or
                float16), ``chat_template = "aligned"``, which is ``any_template``, ``template_kwargs`` (a
                table) and ``template_date`` (such as ``"2026-01-31"``). A checkpoint is a folder, or a table
                ``{dir}``, ``{gguf}``, ``{hub, revision}`` or ``{adapter, base}``. Steps are a glob pattern, a
                list of folders whose names end in their step, or a table from step to checkpoint.
            root: the folder that relative paths start at.

        Raises:
            HistoryError: if a key is unknown or missing, or a value is of the wrong kind; and see
                `TrainingHistory`.
        """
        reference, aligned, steps, settings = parse_table(table, root)
        return cls.from_sources(reference, aligned, steps, **settings)

    @property
    def n_layers(self) -> int:
        """Number of blocks, by the aligned model's config.json."""
        return n_layers(self.aligned.source.config())

    def describe(self) -> str:
        """A line for each checkpoint: its name, its phase, its step and where its weights come from."""
        rows = [(c.name, c.phase, "-" if c.step is None else str(c.step), c.source.identity()) for c in self]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        return "\n".join(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
            for row in rows
        )

    def __iter__(self) -> Iterator[Checkpoint]:
        yield from (self.reference, self.aligned, *self.steps)

    def __getitem__(self, key: str | int) -> Checkpoint:
        """A checkpoint by name (``"reference"``, ``"aligned"``, ``"step-20"``) or by step (0 is aligned).

        Raises:
            HistoryError: if there is none, listing those that exist.
        """
        for checkpoint in self:
            if key in (checkpoint.name, checkpoint.step):
                return checkpoint
        raise HistoryError(
            f"No checkpoint {key!r} in this history; it has {', '.join(c.name for c in self)}."
        )
