"""Commands that are made from the signature and the docstring of a library function.

Every option of such a command is a parameter of the function: `n_orders` is ``--n-orders``, with
the same default, and its help is the first sentence of its description.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
import xarray as xr

from unitprobe.ablation import ablate
from unitprobe.ablation.settings import Method, Mode, format_mode, parse_mode
from unitprobe.ablation.targets import Units
from unitprobe.cli.arguments import (
    BatchSize,
    Classes,
    ClassNames,
    Device,
    Layers,
    Limit,
    Model,
    Overwrite,
    Pretrained,
    Scale,
    Seed,
    Split,
    StimuliSpec,
    Weights,
    Workers,
    load_images,
    load_network,
    parse_checkpoints,
    parse_numbers,
    parse_units,
)
from unitprobe.errors import OptionError
from unitprobe.metrics import SignPolicy
from unitprobe.protocols.common import RunOptions
from unitprobe.protocols.ranadive import Checkpoints

#: The parameters that every command has, before and after those of its own.
_FIRST: Mapping[str, Any] = {
    "model": Model,
    "stimuli": StimuliSpec,
    "out": Annotated[Path, typer.Option(help="The HDF5 file to write.")],
    "layers": Layers,
}
_LAST: Mapping[str, tuple[Any, Any]] = {
    "batch_size": (BatchSize, 64),
    "device": (Device, None),
    "weights": (Weights, None),
    "pretrained": (Pretrained, True),
    "num_classes": (Classes, None),
    "class_names": (ClassNames, None),
    "split": (Split, "test"),
    "limit": (Limit, None),
    "scale": (Scale, None),
    "seed": (Seed, 0),
    "workers": (Workers, 0),
    "overwrite": (Overwrite, False),
}
#: Those of them that the function takes.
_PASSED = ("batch_size", "device", "workers", "seed")


@dataclass(frozen=True)
class _Form:
    """How the command line gives the values of one type.

    Attributes
    ----------
    type : type
        What typer reads.
    parse : callable
        From that to the value.
    help : str
        The help, if it is the same wherever the type occurs.
    show : callable
        From a default to what typer reads.
    """

    type: Any
    parse: Callable[[Any], Any] = lambda given: given
    help: str = ""
    show: Callable[[Any], Any] = lambda default: default


def _modes(text: str) -> list[Mode]:
    return [parse_mode(word) for word in text.split(",")]


def _joined(values: Sequence[Any]) -> str:
    return ",".join(map(str, values))


_MODES = "zero, mean, class_mean, resample, weights, noise:SCALE or value:NUMBER"
#: The types of parameters that a command line can give. Parameters of other types are left out.
_FORMS: Sequence[tuple[Any, _Form]] = (
    (int, _Form(int)),
    (float, _Form(float)),
    (bool, _Form(bool)),
    (Mode, _Form(str, parse_mode, f"What replaces a unit: {_MODES}.", format_mode)),
    (
        Sequence[Mode],
        _Form(
            str,
            _modes,
            f"What replaces units, separated by commas: {_MODES}.",
            lambda modes: ",".join(map(format_mode, modes)),
        ),
    ),
    (Method, _Form(str, help="auto, partial_forward or full.")),
    (SignPolicy, _Form(str, help="Negative responses: refuse, rectify or allow.")),
    (Units | None, _Form(str | None, parse_units, "Only these units of each layer: 0,1,5-9.")),
    (Sequence[int], _Form(str, partial(parse_numbers, int), show=_joined)),
    (Sequence[float], _Form(str, partial(parse_numbers, float), show=_joined)),
    (Sequence[str] | None, _Form(list[str] | None)),
    (
        Checkpoints,
        _Form(list[str], parse_checkpoints, "EPOCH=FILE of weights, or a glob. May be repeated."),
    ),
)


def network_command(
    function: Callable[..., xr.DataTree],
    run: Callable[..., xr.DataTree],
    describe: Callable[[xr.DataTree], Sequence[str]],
    extra: Sequence[inspect.Parameter] = (),
    summary: str = "",
) -> Callable[..., None]:
    """Return the command of a function that takes a network and stimuli and returns a tree.

    Parameters
    ----------
    function : callable
        Has the parameters ``model`` and ``stimuli``, and a numpydoc docstring.
    run : callable
        From ``call``, the function without the arguments that say where its result goes,
        ``out``, ``overwrite`` and `extra` to the tree, which it writes to ``out``.
    describe : callable
        From the tree to the lines to print; the path of the file is added to the last.
    extra : sequence of Parameter
        Options that `run` takes and `function` does not.
    summary : str
        Help of the command; the first line of the docstring if empty.
    """
    own = _own_options(function)

    def command(**given: Any) -> None:
        from unitprobe.store import check_output

        out, overwrite = given["out"], given["overwrite"]
        check_output(out, overwrite=overwrite)
        options = {name: _parse(name, form, given[name]) for name, (form, _) in own.items()}
        images = load_images(
            *(given[name] for name in ("stimuli", "split", "limit", "seed", "scale"))
        )
        network = load_network(
            *(given[n] for n in ("model", "weights", "pretrained", "num_classes", "class_names"))
        )
        call = partial(
            function,
            model=network,
            stimuli=images,
            layers=given["layers"] or "activations",
            **{name: given[name] for name in _PASSED},
            **options,
        )
        tree = run(call, out, overwrite, **{each.name: given[each.name] for each in extra})
        typer.echo("\n".join(describe(tree)) + f": {out}")

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        *(
            inspect.Parameter(name, keyword, annotation=kind)
            if name != "layers"
            else inspect.Parameter(name, keyword, annotation=kind, default=None)
            for name, kind in _FIRST.items()
        ),
        *(parameter for _, parameter in own.values()),
        *extra,
        *(
            inspect.Parameter(name, keyword, annotation=kind, default=default)
            for name, (kind, default) in _LAST.items()
        ),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__doc__ = summary or (inspect.getdoc(function) or "").split("\n")[0]
    return command


def _parse(name: str, form: _Form, given: Any) -> Any:
    try:
        return None if given is None else form.parse(given)
    except OptionError as error:
        raise OptionError(f"{_flag(name)}: {error}") from error


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _own_options(function: Callable[..., Any]) -> dict[str, tuple[_Form, inspect.Parameter]]:
    """Return the options that only this command has, by parameter."""
    hints, parameters = get_type_hints(ablate), dict(inspect.signature(function).parameters)
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        known = inspect.signature(ablate).parameters
        parameters |= {name: known[name] for name in RunOptions.__annotations__}
    hints |= get_type_hints(function)
    # Parameters that a function shares with `ablate` are described there.
    help_of = parameter_help(inspect.getdoc(ablate) or "")
    for name, text in parameter_help(inspect.getdoc(function) or "").items():
        if not text.startswith("As "):
            help_of[name] = text
    found = {}
    for name, parameter in parameters.items():
        form = next((form for hint, form in _FORMS if hint == hints.get(name)), None)
        if form is None or name in _FIRST or name in _LAST or name == "progress":
            continue
        default = parameter.default
        if default is not inspect.Parameter.empty and default is not None:
            default = form.show(default)
        flag = _flag(name)
        if default is True:
            flag += f"/--no-{flag[2:]}"
        option = typer.Option(flag, help=form.help or help_of.get(name, ""))
        found[name] = (
            form,
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[form.type, option],
            ),
        )
    return found


def parameter_help(docstring: str) -> dict[str, str]:
    """Return the first sentence on each parameter of a numpydoc docstring.

    Parameters
    ----------
    docstring : str
        The whole docstring. It is not indented, as from `inspect.getdoc`.

    Examples
    --------
    >>> parameter_help(inspect.getdoc(parameter_help))
    {'docstring': 'The whole docstring.'}
    """
    section = docstring.partition("Parameters\n----------\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    for names, text in re.findall(r"^(\**\w[^\n]*)\n((?:    [^\n]*\n?)+)", section, re.MULTILINE):
        words = " ".join(text.split()).replace("`", "")
        sentence = re.split(r"(?<=\.)\s", words)[0]
        for name in names.partition(" : ")[0].split(", "):
            found.setdefault(name.strip("*"), sentence)
    return found
