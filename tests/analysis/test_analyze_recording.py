import math

import networks
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
import xarray as xr
from conftest import make_stimuli

import unitprobe as up
from unitprobe import metrics as m
from unitprobe.errors import LabelError, OptionError, ResponseError, StoreError, UnitprobeWarning
from unitprobe.metrics.registry import MEASURES, measures


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "s.h5"
    return up.record(networks.build_tiny(), make_stimuli(120), path)


@pytest.fixture(scope="module")
def analysis(tree):
    return up.analyze(tree, n_permutations=50, n_bootstrap=50)


def recording(responses, labels, layer="relu", class_names=None):
    """A recording as a tree, from an array."""
    n, units = responses.shape
    names = class_names or [f"class {i}" for i in range(int(max(labels)) + 1)]
    root = xr.Dataset(
        coords={
            "stimulus": [f"s{i}" for i in range(n)],
            "label": ("stimulus", np.asarray(labels)),
            "class_name": names,
        },
        attrs={"unitprobe_content": "recording"},
    )
    node = xr.Dataset(
        {"response": (("stimulus", "unit"), responses)}, coords={"unit": np.arange(units)}
    )
    return xr.DataTree.from_dict({"/": root, layer: node})


def literal(responses, labels):
    """Every statistic one unit at a time, in plain numpy: the reference."""
    responses = np.asarray(responses, np.float64)
    n, units = responses.shape
    found = {"class_selectivity": [], "lifetime_sparseness": [], "fraction_active": [], "dead": []}
    for unit in responses.T:
        means = sorted(unit[labels == c].mean() for c in np.unique(labels))
        top, rest = means[-1], np.mean(means[:-1])
        found["class_selectivity"].append((top - rest) / (top + rest) if top + rest else math.nan)
        energy = (unit**2).mean()
        ratio = unit.mean() ** 2 / energy if energy else math.nan
        found["lifetime_sparseness"].append((1 - ratio) / (1 - 1 / n))
        found["fraction_active"].append((unit > 0).mean())
        found["dead"].append(not unit.any())
    found["population_sparseness"] = [
        (1 - row.mean() ** 2 / (row**2).mean()) / (1 - 1 / units) if row.any() else math.nan
        for row in responses
    ]
    singular = np.linalg.svd(responses - responses.mean(0), compute_uv=False)
    eigenvalues = singular**2
    shares = singular[singular > 1e-12] / singular.sum()
    found["participation_ratio"] = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    found["effective_rank"] = np.exp(-(shares * np.log(shares)).sum())
    cumulated = np.cumsum(eigenvalues) / eigenvalues.sum()
    found["components_90"] = 1 + int(np.argmax(cumulated >= 0.90))
    found["components_95"] = 1 + int(np.argmax(cumulated >= 0.95))
    return {name: np.asarray(values) for name, values in found.items()}


def test_every_statistic_equals_an_independent_computation(tree, analysis):
    for layer in ("relu", "relu_1"):
        expected = literal(tree[layer]["response"].values, tree["label"].values)
        for name, values in expected.items():
            np.testing.assert_allclose(analysis[layer][name], values, atol=1e-5, err_msg=name)


def test_the_result_is_labelled(analysis):
    node = analysis["relu"]
    assert node["class_selectivity"].dims == ("unit",)
    assert node["tuning_curve"].dims == ("unit", "class_name")
    assert node["population_sparseness"].dims == ("stimulus",)
    assert node["participation_ratio"].dims == ()
    assert analysis["class_selectivity"].dims == ("layer",)
    assert list(analysis["layer"].values) == ["relu", "relu_1"]
    assert analysis.attrs["weights_fingerprint"]


def test_null_correction_and_interval_belong_together(analysis):
    node = analysis["relu_1"]
    corrected = node["class_selectivity"] - node["class_selectivity_null_mean"]
    np.testing.assert_allclose(node["class_selectivity_corrected"], corrected)
    assert bool((node["class_selectivity_low"] <= node["class_selectivity_high"]).all())
    assert float(node["class_selectivity_p"].min()) >= 1 / 51


def test_false_discovery_rates_are_over_all_layers(analysis):
    nodes = list(analysis.children.values())
    p = np.concatenate([node["class_selectivity_p"] for node in nodes])
    q = np.concatenate([node["class_selectivity_q"] for node in nodes])
    np.testing.assert_allclose(q, scipy.stats.false_discovery_control(p))


def test_a_unit_that_prefers_a_class_is_found_and_noise_is_not():
    random = np.random.default_rng(0)
    labels = np.arange(200) % 4
    responses = np.abs(random.normal(size=(200, 40)))
    responses[labels == 2, 0] += 2
    node = up.analyze(recording(responses, labels), n_permutations=2000)["relu"]
    assert int(node["preferred_class"][0]) == 2
    assert float(node["class_selectivity_q"][0]) < 0.05
    assert float((node["class_selectivity_q"][1:] < 0.05).mean()) < 0.1
    assert abs(float(node["class_selectivity_corrected"][1:].mean())) < 0.01


def test_a_dead_unit_has_no_selectivity_and_is_counted(tree):
    responses = np.abs(np.random.default_rng(0).normal(size=(40, 3)))
    responses[:, 1] = 0
    result = up.analyze(recording(responses, np.arange(40) % 4), n_permutations=20, n_bootstrap=20)
    node = result["relu"]
    assert math.isnan(node["class_selectivity"][1])
    assert math.isnan(node["class_selectivity_p"][1])
    assert int(node["preferred_class"][1]) == -1
    assert bool(node["dead"][1])
    assert float(result["dead_share"][0]) == pytest.approx(1 / 3)
    assert float(result["class_selectivity"][0]) == pytest.approx(
        float(node["class_selectivity"][[0, 2]].mean())
    )


def test_the_seed_decides_and_nothing_else(tree):
    one, same = (up.analyze(tree, n_permutations=20, n_bootstrap=20, seed=3) for _ in range(2))
    other = up.analyze(tree, n_permutations=20, n_bootstrap=20, seed=4)
    assert one["relu"].to_dataset().equals(same["relu"].to_dataset())
    assert not one["relu"]["class_selectivity_p"].equals(other["relu"]["class_selectivity_p"])


def test_unpooled_activations_are_averaged_over_positions(tmp_path, tree):
    stimuli = make_stimuli(120)
    unpooled = up.record(networks.build_tiny(), stimuli, tmp_path / "s.h5", pool="none")
    for name in ("class_selectivity", "participation_ratio", "lifetime_sparseness"):
        one, other = (up.analyze(t, metrics=[name])["relu"][name] for t in (tree, unpooled))
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_subset_of_metrics_is_all_that_is_computed(tree):
    node = up.analyze(tree, metrics=["gini"])["relu"]
    assert list(node.data_vars) == ["gini"]


def signed_recording():
    responses = np.random.default_rng(0).normal(size=(60, 5))
    return recording(responses, np.arange(60) % 3, layer="gelu")


NON_NEGATIVE = [name for name in measures() if MEASURES[name].assumes_non_negative]


def mixed_recording():
    """A layer of non-negative responses, and one of normal ones."""
    responses = np.random.default_rng(0).normal(size=(70, 5))
    labels = np.arange(70) % 3
    tree = recording(np.maximum(responses, 0), labels)
    return xr.DataTree.from_dict(
        {
            "/": tree.to_dataset(),
            "relu": tree["relu"].to_dataset(inherit=False),
            "gelu": recording(responses, labels, "gelu")["gelu"].to_dataset(inherit=False),
        }
    )


def test_by_default_measures_that_assume_non_negative_input_are_nan_where_some_are_negative():
    tree, options = mixed_recording(), {"n_permutations": 20, "n_bootstrap": 20}
    with pytest.warns(UnitprobeWarning) as caught:
        found = up.analyze(tree, **options)
    assert len(caught) == 1
    assert "1 of 2 layers have negative responses, the first 'gelu'" in str(caught[0].message)
    assert "signed='rectify'" in str(caught[0].message)
    rectified = up.analyze(tree, signed="rectify", **options)
    for name, variable in rectified["gelu"].data_vars.items():
        here = found["gelu"][name]
        assert here.dims == variable.dims
        if any(str(name).startswith(measure) for measure in NON_NEGATIVE):
            assert np.isnan(here).all()
            assert "of 350 responses are negative" in here.attrs["not_computed"]
        elif str(name).endswith("_q"):
            assert "not_computed" not in here.attrs
        else:
            np.testing.assert_array_equal(here, variable)
            assert "not_computed" not in here.attrs
    assert found["gelu"].attrs["not_computed"] == ", ".join(NON_NEGATIVE)
    assert "not_computed" not in found["relu"].attrs
    assert not np.isnan(found["relu"]["class_selectivity_q"]).any()
    assert np.isnan(found["selective_share"]).values.tolist() == [False, True]
    assert "in 1 of 2 layers" in found["class_selectivity"].attrs["not_computed"]
    assert found.attrs["signed"] == "auto"


def test_one_family_of_tests_has_the_layers_where_selectivity_is_computed():
    with pytest.warns(UnitprobeWarning):
        found = up.analyze(mixed_recording(), n_permutations=20)
    p = found["relu"]["class_selectivity_p"]
    np.testing.assert_allclose(
        found["relu"]["class_selectivity_q"], scipy.stats.false_discovery_control(p)
    )


def test_a_measure_that_is_named_refuses_negative_responses():
    for options in ({"metrics": ["class_selectivity"]}, {"signed": "refuse"}):
        with pytest.raises(ResponseError, match=r"layer 'gelu', class_selectivity: 1\d\d of 300"):
            up.analyze(signed_recording(), **options)


def test_negative_responses_are_treated_as_asked():
    with pytest.warns(UnitprobeWarning, match=r"1 of 1 layers have negative .*'gelu' \(1\d\d\)"):
        result = up.analyze(signed_recording(), signed="allow")
    assert result["gelu"].attrs["negative_responses"] > 0
    rectified = up.analyze(signed_recording(), signed="rectify")["gelu"]["class_selectivity"]
    assert 0 <= float(rectified.min()) <= float(rectified.max()) <= 1


MEASURES_OF_CLASS = {
    "class_selectivity": m.class_selectivity,
    "ccmas": m.ccmas,
    "localist_selectivity": m.localist_selectivity,
    "top_class_selectivity": m.top_class_selectivity,
    "precision_at_k": m.precision_at_k,
    "max_informedness": m.max_informedness,
    "max_informedness_threshold": m.max_informedness_threshold,
    "roc_auc": m.roc_auc,
    "average_precision": m.average_precision,
    "recall_at_precision": m.recall_at_precision,
    "max_f1": m.max_f1,
    "class_correlation": m.class_correlation,
    "d_prime": m.d_prime,
    "mutual_information": m.mutual_information,
    "anova_f": m.anova_f,
    "eta_squared": m.eta_squared,
}


@pytest.mark.parametrize("name", MEASURES_OF_CLASS)
def test_every_measure_by_class_is_the_function_of_its_name(tree, analysis, name):
    for layer in tree.children:
        expected = MEASURES_OF_CLASS[name](tree[layer]["response"].values, tree["label"].values)
        np.testing.assert_allclose(analysis[layer][name], expected, rtol=1e-9, err_msg=layer)


def test_the_class_that_has_the_value_stands_beside_it(tree, analysis):
    responses, labels = tree["relu"]["response"].values, tree["label"].values
    expected = m.best_class(m.d_prime(responses, labels, reduce=None))
    np.testing.assert_array_equal(analysis["relu"]["d_prime_class"], expected)
    assert "roc_auc_class" in analysis["relu"]


def test_measures_that_are_named_get_a_null_and_an_interval_whatever_they_cost(tree):
    names = measures("class")
    node = up.analyze(tree, metrics=names, n_permutations=30, n_bootstrap=30)["relu"]
    for name in names:
        observed, p = node[name].values, node[f"{name}_p"].values
        known = ~np.isnan(observed)
        assert ((p[known] >= 1 / 31) & (p[known] <= 1)).all()
        np.testing.assert_allclose(
            node[f"{name}_corrected"], observed - node[f"{name}_null_mean"].values
        )
        assert (node[f"{name}_q"].values[known] >= p[known]).all()
    for name in names:
        low, high = node[f"{name}_low"].values, node[f"{name}_high"].values
        known = ~np.isnan(low)
        assert (low[known] <= node[name].values[known] + 1e-9).all()
        assert (high[known] >= node[name].values[known] - 1e-9).all()


def test_few_stimuli_leave_out_by_default_what_needs_more():
    random = np.random.default_rng(0)
    few = recording(random.random((20, 4)), np.arange(20) % 2)
    node = up.analyze(few)["relu"]
    assert "precision_at_k" not in node
    assert "mle_dimension" not in node
    assert "d_prime" in node
    with pytest.raises(OptionError, match="k=60"):
        up.analyze(few, metrics=["precision_at_k"])


def test_measures_of_signed_responses_need_no_warning():
    up.analyze(signed_recording(), metrics=["participation_ratio", "kurtosis"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_responses_that_are_not_numbers_are_refused_with_layer_and_count(bad):
    responses = np.ones((12, 3))
    responses[5, 1] = bad
    with pytest.raises(ResponseError, match=r"'relu' has 1 NaN or infinite .* among 36.*'s5'"):
        up.analyze(recording(responses, np.arange(12) % 3))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"metrics": ["selectivity_class"]}, OptionError, "class_selectivity"),
        ({"n_permutations": -1}, OptionError, "n_permutations=-1"),
        ({"signed": "maybe"}, OptionError, "signed='maybe'"),
    ],
)
def test_a_mistake_is_one_clear_line(tree, options, error, match):
    with pytest.raises(error, match=match):
        up.analyze(tree, **options)


def test_one_class_is_too_few():
    with pytest.raises(LabelError, match="at least two"):
        up.analyze(recording(np.ones((5, 2)), np.zeros(5, int)))


def test_only_a_recording_can_be_analyzed(analysis):
    with pytest.raises(StoreError, match="takes a recording"):
        up.analyze(analysis)
    with pytest.raises(StoreError, match="not one of unitprobe's"):
        up.analyze(xr.DataTree())


def test_tables_have_a_row_per_unit_and_per_layer(analysis, tmp_path):
    units = up.unit_table(analysis)
    assert len(units) == 12
    assert list(units.columns[:2]) == ["layer", "unit"]
    preferred = units["preferred_class"][0]
    assert units["preferred_class_name"][0] == f"class {preferred}"
    units.to_csv(tmp_path / "units.csv", index=False)
    again = pd.read_csv(tmp_path / "units.csv")
    np.testing.assert_allclose(again["class_selectivity"], units["class_selectivity"])
    layers = up.layer_table(analysis)
    assert list(layers["layer"]) == ["relu", "relu_1"]
    assert list(layers["units"]) == [6, 6]


def test_one_unit_that_separates_the_classes_leaves_the_mean_of_its_layer_finite():
    labels = np.repeat(np.arange(4), 15)
    responses = np.random.default_rng(0).random((60, 6))
    alone = up.analyze(recording(responses[:, 1:], labels), n_permutations=9, n_bootstrap=9)
    responses[:, 0] = labels == 2
    analysis = up.analyze(recording(responses, labels), n_permutations=9, n_bootstrap=9)
    assert np.isinf(analysis["relu"]["d_prime"][0])
    table = up.layer_table(analysis).iloc[0]
    for name in ("d_prime", "anova_f", "d_prime_high"):
        assert table[f"{name}_infinite"] == 1
        assert table[name] == pytest.approx(up.layer_table(alone).iloc[0][name])
    assert "gini_infinite" not in table
    assert "d_prime_infinite" not in up.layer_table(alone)
    assert np.isfinite(table.drop("layer").astype(float).dropna()).all()


def test_a_trained_selectivity_is_the_analyzed_one(tree):
    network, stimuli = networks.build_tiny(), make_stimuli(120)
    images = torch.stack([stimuli[i][0] for i in range(120)])
    with up.SelectivityRegularizer(network, alpha=1.0) as regularizer, torch.no_grad():
        network(images)
        regularizer(torch.from_numpy(stimuli.labels))
    expected = up.analyze(tree, metrics=["class_selectivity"])["class_selectivity"].mean()
    assert float(regularizer.selectivity) == pytest.approx(float(expected), abs=1e-5)


def unreached(tree, layer, stimuli):
    """The same recording, had these stimuli not reached a layer."""
    node = tree[layer].to_dataset(inherit=False)
    node["response"][stimuli] = np.nan
    tree[layer] = xr.DataTree(node.assign_attrs(unreached_stimuli=len(stimuli)))
    return tree


def test_stimuli_that_did_not_reach_a_layer_are_left_out():
    rng = np.random.default_rng(0)
    responses, labels = rng.random((90, 4)), np.arange(90) % 3
    some = np.arange(90) % 5 > 0
    found = up.analyze(
        unreached(recording(responses, labels), "relu", np.flatnonzero(~some)),
        n_permutations=20,
        n_bootstrap=9,
    )["relu"].to_dataset(inherit=False)
    expected = up.analyze(
        recording(responses[some], labels[some]), n_permutations=20, n_bootstrap=9
    )["relu"]
    for name, values in expected.data_vars.items():
        if name != "population_sparseness":
            np.testing.assert_array_equal(found[name].values, values.values, err_msg=str(name))
    sparseness = found["population_sparseness"].values
    assert np.isnan(sparseness[~some]).all()
    np.testing.assert_array_equal(sparseness[some], expected["population_sparseness"].values)
    assert found.attrs["unreached_stimuli"] == 18


def test_a_layer_that_one_class_reached_is_left_out_with_a_warning():
    responses, labels = np.random.default_rng(0).random((30, 4)), np.arange(30) % 3
    tree = recording(responses, labels)
    tree["other"] = tree["relu"].copy(deep=True)
    tree = unreached(tree, "relu", np.flatnonzero(labels > 0))
    with pytest.warns(UnitprobeWarning, match=r"1 of 2 layers are left out, the first 'relu'"):
        assert list(up.analyze(tree, metrics=["gini"]).children) == ["other"]
    tree = unreached(tree, "other", np.arange(30))
    with pytest.raises(LabelError, match="no layer was reached by stimuli of two classes"):
        up.analyze(tree)


def test_the_weights_of_the_network_stand_beside_what_its_units_do(tree):
    network = networks.build_tiny()
    found = up.analyze(tree, metrics=["gini"], model=network)
    for layer, norms in up.weight_norms(network).items():
        for name, expected in norms.items():
            np.testing.assert_array_equal(found[layer][name], expected)
            mean = found[name].sel(layer=layer)
            np.testing.assert_allclose(mean, expected.mean(), err_msg=str(name))
    assert {"incoming_l1", "outgoing_l2"} <= set(up.analysis.unit_table(found))


def test_the_weights_of_another_network_are_refused(tree):
    torch.manual_seed(5)
    other = networks.ReusedInPlace()
    with pytest.raises(StoreError, match=r"the recording is of weights \w+, the network has \w+"):
        up.analyze(tree, metrics=["gini"], model=other)


def test_paths_are_opened_and_other_trees_refused_in_one_line(tmp_path, tree, analysis):
    path = up.save_tree(analysis, tmp_path / "analysis.h5")
    assert up.unit_table(str(path)).equals(up.unit_table(analysis))
    assert up.layer_table(path).equals(up.layer_table(analysis))
    for table in (up.unit_table, up.layer_table):
        with pytest.raises(StoreError, match=rf"{table.__name__} takes an .*recording; analyze it"):
            table(tree)
    with pytest.raises(StoreError, match="analyze takes a recording, its path, or a network"):
        up.analyze(path)


def test_a_path_is_analyzed_as_its_recording(tmp_path):
    stored = up.record(networks.build_tiny(), make_stimuli(20), tmp_path / "store.h5")
    found = up.analyze(str(tmp_path / "store.h5"), metrics=["gini"])
    xr.testing.assert_identical(found, up.analyze(stored, metrics=["gini"]))


@pytest.mark.parametrize(
    "option",
    [{"layers": "relu"}, {"pool": "max"}, {"memory": "1GB"}],
)
def test_options_of_networks_have_no_effect_on_a_recording(tree, option):
    with pytest.raises(OptionError, match=f"{next(iter(option))}=.* has no effect on a recording"):
        up.analyze(tree, **option)


def test_stimuli_are_refused_beside_a_recording_or_a_name(tree):
    with pytest.raises(OptionError, match="not for a recording; load_model"):
        up.analyze(tree, make_stimuli(4))
    with pytest.raises(OptionError, match="not for 'resnet18', a path"):
        up.analyze("resnet18", make_stimuli(4))
    with pytest.raises(OptionError, match="a network needs stimuli"):
        up.analyze(networks.build_tiny())
    with pytest.raises(OptionError, match="a network with stimuli, not None"):
        up.analyze(None)


def test_every_variable_says_what_it_is(tree):
    found = up.analyze(tree, n_permutations=5, n_bootstrap=5)
    for node in (found, found["relu"]):
        for name, variable in node.to_dataset(inherit=False).data_vars.items():
            assert variable.attrs["long_name"], name
            assert variable.attrs["units"], name
    assert found["relu"]["class_selectivity"].attrs["valid_range"] == [0, 1]


def test_tidy_has_one_row_for_each_unit_and_statistic_with_its_null_and_interval_beside(tree):
    names = ["class_selectivity", "gini"]
    analysis = up.analyze(tree, metrics=names, n_permutations=10, n_bootstrap=10)
    table = up.tidy(analysis).set_index(["layer", "statistic", "unit"])
    units = sum(node.sizes["unit"] for node in analysis.children.values())
    counts = table.groupby("statistic").size()
    assert {name: counts[name] for name in names} == dict.fromkeys(names, units)
    assert not table.index.get_level_values("statistic").str.endswith(("_p", "_low")).any()
    for layer, node in analysis.children.items():
        rows = table.loc[layer, "class_selectivity"]
        np.testing.assert_array_equal(rows["value"], node["class_selectivity"])
        for ending in ("null_mean", "z", "p", "q", "corrected", "low", "high"):
            np.testing.assert_array_equal(rows[ending], node[f"class_selectivity_{ending}"])
        assert table.loc[layer, "gini"]["p"].isna().all()
