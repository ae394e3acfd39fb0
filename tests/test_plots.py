import io
import re
import subprocess
import sys

import numpy as np
import pytest
import trees
import xarray as xr
from scipy.stats import spearmanr

from unitprobe import plots
from unitprobe.errors import OptionError, StoreError


@pytest.fixture(scope="module")
def analysis():
    return trees.make_analysis()


@pytest.fixture(scope="module")
def ablation(analysis):
    return trees.make_ablation(analysis)


def draw(figure):
    figure.savefig(io.BytesIO(), format="svg")
    return figure


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_selectivity_shows_the_median_unit_of_each_layer_and_its_null(analysis):
    figure = draw(plots.plot_selectivity_by_layer(analysis))
    shown = lines(figure.axes[0])
    for label, name in (
        ("measured", "class_selectivity"),
        ("shuffled labels, mean of each unit", "class_selectivity_null_mean"),
    ):
        medians = [np.nanmedian(node[name]) for node in analysis.children.values()]
        np.testing.assert_allclose(shown[label].get_ydata(), medians)


def test_selectivity_shows_the_share_of_significant_units(analysis):
    bars = plots.plot_selectivity_by_layer(analysis).axes[1].patches
    expected = 100 * analysis["selective_share"].values
    np.testing.assert_allclose([bar.get_height() for bar in bars], expected)


def test_selectivity_without_a_null_has_one_panel():
    analysis = trees.make_analysis(n_permutations=0)
    assert len(draw(plots.plot_selectivity_by_layer(analysis)).axes) == 1


def test_unbounded_selectivity_does_not_flatten_the_rest(analysis):
    tree = analysis.copy(deep=True)
    tree["conv1.relu"]["class_selectivity"][0] = 5000.0
    ax = plots.plot_selectivity_by_layer(tree).axes[0]
    assert ax.get_ylim()[1] <= 2.1
    assert "1 units outside" in ax.get_ylabel()


def test_dimensionality_shows_numbers_and_shares(analysis):
    above, below = draw(plots.plot_dimensionality_by_layer(analysis)).axes
    ratio = np.array([float(node["participation_ratio"]) for node in analysis.children.values()])
    np.testing.assert_allclose(lines(above)["participation ratio"].get_ydata(), ratio)
    units = np.array(list(trees.LAYERS.values()))
    np.testing.assert_allclose(below.get_lines()[-1].get_ydata(), 100 * ratio / units)


def test_sparseness_shows_medians_and_dead_units(analysis):
    above, below = draw(plots.plot_sparseness_by_layer(analysis)).axes
    medians = [np.nanmedian(node["lifetime_sparseness"]) for node in analysis.children.values()]
    np.testing.assert_allclose(lines(above)["lifetime, over units"].get_ydata(), medians)
    expected = [100 / units for units in trees.LAYERS.values()]
    np.testing.assert_allclose([bar.get_height() for bar in below.patches], expected)


def test_tuning_shows_the_curve_and_the_rank_among_all_units_of_the_layer(analysis):
    node = analysis["layer1.0.relu"]
    axes = draw(plots.plot_tuning(analysis, "layer1.0.relu", [2, 5])).axes
    np.testing.assert_allclose(
        [bar.get_height() for bar in axes[0].patches], node["tuning_curve"].sel(unit=2)
    )
    value = float(node["class_selectivity"].sel(unit=5))
    rank = 1 + int((node["class_selectivity"] > value).sum())
    low, high = (float(node[f"class_selectivity_{end}"].sel(unit=5)) for end in ("low", "high"))
    preferred = analysis["class_name"].values[int(node["preferred_class"].sel(unit=5))]
    assert axes[1].get_title() == (
        f"unit 5: {preferred}\nSI {value:.2f} [{low:.2f}, {high:.2f}]\nrank {rank} of 8"
    )


def test_tuning_of_a_dead_unit_says_so(analysis):
    axes = draw(plots.plot_tuning(analysis, "conv1.relu", [5])).axes
    assert "never responds" in axes[0].get_title()


def test_tuning_with_many_classes_is_a_line():
    analysis = trees.make_analysis({"relu": 4}, [f"class {i}" for i in range(50)], n_permutations=0)
    ax = draw(plots.plot_tuning(analysis, "relu", [0])).axes[0]
    assert len(ax.get_lines()[0].get_ydata()) == 50


@pytest.mark.parametrize(
    ("layer", "units", "error", "words"),
    [
        ("layer1.0.rellu", [0], StoreError, "layer1.0.relu"),
        ("conv1.relu", [99], StoreError, "99"),
        ("conv1.relu", [], OptionError, "at least one"),
    ],
)
def test_tuning_refuses_what_is_not_there(analysis, layer, units, error, words):
    with pytest.raises(error, match=words):
        plots.plot_tuning(analysis, layer, units)


def test_damage_is_drawn_against_selectivity_with_the_rank_correlation(analysis, ablation):
    figure = draw(plots.plot_selectivity_against_ablation(analysis, ablation))
    table = plots.selectivity_and_damage(analysis, ablation)
    assert len(table) == sum(units - 1 for units in trees.LAYERS.values())  # without the dead
    for ax, name in zip(figure.axes[:2], ("accuracy_drop", "max_class_accuracy_drop"), strict=True):
        points = ax.collections[0].get_offsets()
        np.testing.assert_allclose(points[:, 0], table["class_selectivity"])
        np.testing.assert_allclose(points[:, 1], 100 * table[name])
        rho = spearmanr(table["class_selectivity"], table[name]).statistic
        assert f"{rho:.2f}, n = 16 units" in ax.get_title(loc="left")


def test_only_units_of_both_trees_are_held_against_each_other(analysis, ablation):
    root = xr.Dataset(attrs=ablation.attrs)
    few = xr.DataTree.from_dict(
        {"/": root, "conv1.relu": ablation["conv1.relu"].isel(unit=[1, 3]).to_dataset()}
    )
    table = plots.selectivity_and_damage(analysis, few)
    assert table[["layer", "unit"]].values.tolist() == [["conv1.relu", 1], ["conv1.relu", 3]]
    other = xr.DataTree.from_dict({"/": root, "elsewhere": ablation["conv1.relu"].to_dataset()})
    with pytest.raises(StoreError, match="elsewhere"):
        plots.selectivity_and_damage(analysis, other)


def test_networks_are_compared_layer_by_layer(analysis):
    above, below = draw(plots.plot_network_comparison({"a": analysis, "_b": analysis})).axes
    means = [float(node["class_selectivity"].mean()) for node in analysis.children.values()]
    np.testing.assert_allclose(lines(above)["a (19 units)"].get_ydata(), means)
    assert len(above.get_legend().get_texts()) == 2
    ratio = analysis["participation_ratio"].values
    np.testing.assert_allclose(below.get_lines()[0].get_ydata(), ratio)


def test_networks_of_other_layers_are_compared_by_depth(analysis):
    other = trees.make_analysis({"relu": 4})
    figure = draw(plots.plot_network_comparison({"a": analysis, "b": other}))
    ticks = [tick.get_text() for tick in figure.axes[-1].get_xticklabels()]
    assert ticks == ["1", "2", "3"]


def test_no_network_is_refused():
    with pytest.raises(OptionError, match="at least one"):
        plots.plot_network_comparison({})


@pytest.mark.parametrize(
    ("plot", "missing"),
    [
        (plots.plot_selectivity_by_layer, "class_selectivity"),
        (plots.plot_dimensionality_by_layer, "components_95"),
        (plots.plot_sparseness_by_layer, "lifetime_sparseness"),
        (lambda tree: plots.plot_tuning(tree, "conv1.relu", [0]), "tuning_curve"),
        (lambda tree: plots.plot_network_comparison({"a": tree}), "class_selectivity"),
        (lambda tree: plots.plot_selectivity_against_ablation(tree, tree), "class_selectivity"),
    ],
)
def test_a_missing_statistic_is_named(plot, missing):
    analysis = trees.make_analysis(metrics=["gini", "participation_ratio"])
    with pytest.raises(StoreError, match=missing):
        plot(analysis)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 120])
def test_one_layer_and_very_many_can_be_read(count):
    analysis = trees.make_analysis(
        {f"layer{i}.relu": 3 for i in range(count)}, n_permutations=0, n_bootstrap=0
    )
    for plot in (
        plots.plot_selectivity_by_layer,
        plots.plot_dimensionality_by_layer,
        plots.plot_sparseness_by_layer,
    ):
        figure = draw(plot(analysis))
        assert 1 <= len(figure.axes[-1].get_xticks()) <= 24
        assert f"{count} layer" in figure.get_suptitle()


def test_names_are_never_read_as_mathematics():
    names = ["$\\frac$", "<script>", "a/b"]
    analysis = trees.make_analysis({"$x$ $": 4, "_relu": 4}, names)
    drawn = io.BytesIO()
    plots.plot_tuning(analysis, "$x$ $", [0, 1, 2]).savefig(drawn, format="svg")
    plots.plot_selectivity_by_layer(analysis).savefig(io.BytesIO(), format="svg")
    assert not re.search(rb"<script>(?!.*--)", drawn.getvalue())


@pytest.mark.process
def test_no_display_and_no_global_state_is_touched():
    code = (
        "import sys, trees; from unitprobe import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plots.plot_selectivity_by_layer(trees.make_analysis(n_permutations=0, n_bootstrap=0))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    path = str(trees.__file__).rsplit("/", 1)[0]
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r})\n{code}"], check=True
    )
