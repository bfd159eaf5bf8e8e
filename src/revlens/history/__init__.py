"""Training histories: which checkpoints of a model, where their weights come from, loading and saving."""

from revlens.history.adapter import Adapter as Adapter
from revlens.history.adapter import local_source as local_source
from revlens.history.checkpoint import Checkpoint as Checkpoint
from revlens.history.checkpoint import boot as boot
from revlens.history.directory import Directory as Directory
from revlens.history.fused import hugging_face_name as hugging_face_name
from revlens.history.gguf import Gguf as Gguf
from revlens.history.hub import Hub as Hub
from revlens.history.lora import boot_with_lora as boot_with_lora
from revlens.history.manifest import read_table as read_table
from revlens.history.saving import save as save
from revlens.history.source import Source as Source
from revlens.history.state_dict import StateDict as StateDict
from revlens.history.training_history import TrainingHistory as TrainingHistory
from revlens.history.wrap import wrap as wrap
