"""Users' prompts and training rows: reading them, splitting them, and finding leaks between them."""

from revlens.data.chat_source import ChatSource as ChatSource
from revlens.data.folder import DataFolder as DataFolder
from revlens.data.leaks import Kept as Kept
from revlens.data.leaks import Leak as Leak
from revlens.data.leaks import check_no_leak as check_no_leak
from revlens.data.leaks import drop_leaks as drop_leaks
from revlens.data.leaks import find_leaks as find_leaks
from revlens.data.normalise import Distinct as Distinct
from revlens.data.normalise import distinct as distinct
from revlens.data.normalise import normalise as normalise
from revlens.data.prompt_source import PromptSource as PromptSource
from revlens.data.public_files import PublicFile as PublicFile
from revlens.data.public_files import fetch_missing as fetch_missing
from revlens.data.splits import TrainTest as TrainTest
from revlens.data.splits import make_probes as make_probes
from revlens.data.splits import train_test_split as train_test_split
from revlens.data.table_source import DroppedWarning as DroppedWarning
from revlens.data.table_source import TableSource as TableSource
