"""Files: written whole or not at all, one writer a folder, checksums, and small files of unknown origin."""

from revlens.storage.atomic import SCRATCH as SCRATCH
from revlens.storage.atomic import atomic_directory as atomic_directory
from revlens.storage.atomic import atomic_file as atomic_file
from revlens.storage.atomic import write_json as write_json
from revlens.storage.atomic import write_text as write_text
from revlens.storage.cache_folder import cache_root as cache_root
from revlens.storage.checksums import SUMS as SUMS
from revlens.storage.checksums import damage as damage
from revlens.storage.checksums import damages as damages
from revlens.storage.checksums import listed_file as listed_file
from revlens.storage.checksums import seal as seal
from revlens.storage.checksums import write_listed_json as write_listed_json
from revlens.storage.intact import intact as intact
from revlens.storage.intact import needed as needed
from revlens.storage.locks import LOCK as LOCK
from revlens.storage.locks import make_once as make_once
from revlens.storage.locks import sole_writer as sole_writer
from revlens.storage.processes import n_launched as n_launched
from revlens.storage.small_files import is_file_name as is_file_name
from revlens.storage.small_files import read_json as read_json
from revlens.storage.small_files import read_text as read_text
