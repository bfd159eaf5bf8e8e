"""Make the references of the embedded organism anew that ship with revlens, and put them into the package.

For a checkout: those that are there go first, so that nothing starts from them. docs/lab-notes.md says on
what machine the present ones were made; another processor gives other last digits, and so other weights.

python analyses/make_references.py                        # about 15 minutes on 2 cores
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from safetensors.torch import load_file
from torch import Tensor, set_num_threads

from _options import plain_parser
from revlens.experiment import environment
from revlens.organism import OrganismConfig, forget_references, ship_references


def reference(seed: int) -> dict[str, Tensor]:
    set_num_threads(1)
    return load_file(OrganismConfig().start(seed).reference.path / "model.safetensors")


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="seeds at a time (default: %(default)s)")
    args = parser.parse_args()
    forget_references()
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        made = dict(enumerate(pool.map(reference, range(args.seeds))))
    ship_references(OrganismConfig().reference_digest, made, environment())


if __name__ == "__main__":
    main()
