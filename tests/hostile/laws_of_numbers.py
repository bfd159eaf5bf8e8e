"""Estimates, nulls, directions and sites: the textbook's number, or an error where it does not exist."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st
from safetensors.torch import load, save
from scipy.stats import spearmanr
from torch import Tensor

from hostile.fuzzing import Law, explains, law
from revlens.activations import Sites
from revlens.direction import ReversionDirection
from revlens.direction.nulls import covariance_directions, isotropic_quantile
from revlens.errors import ConfigError, NonFiniteError, ProbeError, ResultsError, SiteError
from revlens.statistics import mean_over_runs, ratio_over_runs, spearman_over_runs

LAWS: list[Law] = []
ANY = st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0])


@law(LAWS, 400, values=st.lists(ANY, max_size=6))
def a_mean_over_runs_lies_in_its_interval(values: list[float]) -> None:
    try:
        estimate = mean_over_runs(values, n_resamples=50)
    except (ConfigError, NonFiniteError) as error:
        explains(error, "No runs", "finite")
        assert not values or not np.isfinite(values).all()
        return
    assert values
    assert math.isclose(estimate.value, float(np.mean(values)), rel_tol=1e-9, abs_tol=1e-6)
    assert min(values) - 1e-6 <= estimate.low <= estimate.high <= max(values) + 1e-6
    assert estimate.n == len(values)
    assert mean_over_runs(values, n_resamples=50) == estimate


@law(LAWS, 30, pairs=st.lists(st.tuples(ANY, ANY), max_size=3), extra=st.lists(ANY, max_size=1))
def a_ratio_of_means_is_one_or_refused(pairs: list[tuple[float, float]], extra: list[float]) -> None:
    above, below = [*(pair[0] for pair in pairs), *extra], [pair[1] for pair in pairs]
    try:
        estimate = ratio_over_runs(above, below)
    except (ConfigError, NonFiniteError) as error:
        explains(error, "ratio", "resample")
        return
    assert len(above) == len(below) > 0
    assert math.isclose(estimate.value, float(np.mean(above)) / float(np.mean(below)), rel_tol=1e-9)


@law(LAWS, 60, cells=st.lists(st.tuples(ANY, st.integers(0, 3)), min_size=2, max_size=8))
def a_rank_correlation_is_scipys_or_refused(cells: list[tuple[float, int]]) -> None:
    x, y = np.array([[cell[0]] for cell in cells]), np.array([[float(cell[1])] for cell in cells])
    try:
        estimate = spearman_over_runs(x, y, n_resamples=5)
    except (ConfigError, NonFiniteError) as error:
        # With few points, some resamples are constant and have no ranks.
        explains(
            error,
            "Hardly any resample" if np.isfinite(x).all() and np.ptp(x) > 0 and np.ptp(y) > 0 else "spearman",
        )
        return
    assert math.isclose(estimate.value, float(spearmanr(x.ravel(), y.ravel()).statistic), abs_tol=1e-12)


@law(LAWS, 300, d_model=st.integers(-2, 5000), level=st.floats(-0.5, 1.5) | st.just(math.nan))
def the_isotropic_quantile_is_a_cosine_or_refused(d_model: int, level: float) -> None:
    try:
        quantile = isotropic_quantile(d_model, level)
    except ConfigError as error:
        explains(error, f"{d_model} and {level}")
        assert d_model < 2 or not 0.5 <= level < 1
        return
    assert 0 <= quantile <= 1
    assert d_model < 3 or quantile >= isotropic_quantile(d_model + 1, level) - 1e-12


def tensor(draw: st.DataObject, *shape: int) -> Tensor:
    """Random numbers; sometimes one is not finite, or all are equal."""
    values = torch.randn(
        *shape, generator=torch.Generator().manual_seed(draw.draw(st.integers(0, 10**6))), dtype=torch.float64
    )
    match draw.draw(st.sampled_from(["plain", "plain", "bad", "alike"])):
        case "bad" if values.numel():
            values.view(-1)[draw.draw(st.integers(0, values.numel() - 1))] = draw.draw(
                st.sampled_from([math.nan, math.inf, -math.inf])
            )
        case "alike":
            values = torch.ones_like(values)
    return values


@law(LAWS, 300, n=st.integers(0, 4), n_layers=st.integers(1, 3), d=st.integers(1, 4), data=st.data())
def a_direction_is_the_unit_difference_of_means_or_refused(
    n: int, n_layers: int, d: int, data: st.DataObject
) -> None:
    reference, aligned = tensor(data, n, n_layers, d), tensor(data, n, n_layers, d)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        difference = (
            reference.numpy().mean(0) - aligned.numpy().mean(0) if n else np.full((n_layers, d), np.nan)
        )
        gap = np.linalg.norm(difference, axis=-1)
    try:
        v_rev = ReversionDirection.fit(reference, aligned, split="direction")
    except NonFiniteError as error:
        explains(error, "v_rev is undefined")
        assert not np.isfinite(difference).all() or (gap < 1e-12).any()
        return
    assert np.allclose(v_rev.gap.numpy(), gap)
    assert np.allclose(v_rev.unit.numpy() * gap[:, None], difference)


@law(LAWS, 200, n=st.integers(0, 5), n_layers=st.integers(1, 3), d=st.integers(2, 4), data=st.data())
def null_directions_have_length_one_or_are_refused(
    n: int, n_layers: int, d: int, data: st.DataObject
) -> None:
    activations = tensor(data, n, n_layers, d)
    try:
        draws = covariance_directions(activations, 5)
    except (ProbeError, NonFiniteError) as error:
        explains(error)
        assert n < 2 or not activations.isfinite().all() or bool((activations == 1).all())
        return
    assert torch.allclose(draws.norm(dim=-1), torch.ones(5, n_layers, dtype=torch.float64))


STORED = save(
    {"unit": torch.eye(2, 4, dtype=torch.float64), "gap": torch.tensor([1.0, 2.0], dtype=torch.float64)},
    {"layers": "0,2", "split": "direction", "n_prompts": "6"},
)


@law(LAWS, 700, place=st.integers(0, len(STORED)), junk=st.binary(max_size=4), cut=st.booleans())
def a_damaged_v_rev_is_read_as_it_is_or_refused(place: int, junk: bytes, cut: bool) -> None:
    content = STORED[:place] + junk + (b"" if cut else STORED[place + len(junk) :])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "v_rev.safetensors"
        path.write_bytes(content)
        try:
            v_rev = ReversionDirection.load(path)
        except ResultsError as error:
            explains(error, str(path))
            return
    tensors = load(content)
    assert torch.equal(v_rev.unit, tensors["unit"])
    assert torch.equal(v_rev.gap, tensors["gap"])
    assert torch.allclose(v_rev.unit.double().norm(dim=-1), torch.ones(2, dtype=torch.float64), atol=1e-2)
    assert bool((v_rev.gap > 0).all())


@law(
    LAWS,
    300,
    layers=st.none() | st.lists(st.integers(-2, 8), max_size=5).map(tuple),
    n_layers=st.integers(1, 6),
    component=st.sampled_from(["resid_post", "mlp_out", "resid", ""]),
)
def sites_are_increasing_layers_of_the_model_or_refused(
    layers: tuple[int, ...] | None, n_layers: int, component: str
) -> None:
    wanted = range(n_layers) if layers is None else layers
    allowed = (
        component in ("resid_post", "mlp_out")
        and len(wanted) > 0
        and list(wanted) == sorted({i for i in wanted if 0 <= i < n_layers})
    )
    try:
        names = Sites(component, layers).hook_names(n_layers)
    except SiteError as error:
        explains(error)
        assert not allowed
        return
    assert allowed
    assert len(names) == len(wanted)
    assert all(f".{layer}." in name for layer, name in zip(wanted, names, strict=True))
