"""Find and build a network by its name: timm, torchvision, a Python callable."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from unitprobe.errors import ModelError, OptionError, nearest
from unitprobe.models.download import building, reach_hub, reach_url
from unitprobe.models.network import Network, one_line, stated_input_size
from unitprobe.models.output_classes import imagenet_names
from unitprobe.models.transforms import convert_mode, plain_transform
from unitprobe.models.weights_file import load_weights

_FORMS = "'timm:NAME', 'torchvision:NAME' or 'package.module:callable'"


def load_model(
    name: str,
    *,
    pretrained: bool = True,
    weights: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | str | os.PathLike[str] | None = None,
) -> Network:
    """Load a network, in evaluation mode, with its own preprocessing.

    Parameters
    ----------
    name : str
        ``"timm:resnet18.a1_in1k"`` or bare ``"resnet18.a1_in1k"``; ``"torchvision:resnet18"``,
        optionally with the name of its weights, ``"torchvision:resnet50.IMAGENET1K_V1"``; or
        ``"package.module:callable"``, imported with the current directory importable, where the
        callable returns a module or a `Network`. Such a module gets `plain_transform`.
    pretrained : bool
        Load the published weights. No effect on a callable, or if `weights` is given.
    weights : path, optional
        Weights in a .safetensors, .pt, .pth, .pth.tar, .ckpt or .bin file to load instead: a state
        dict, also as ``state_dict``, ``model_state_dict``, ``model``, ``net`` or ``state_dict_ema``
        of a checkpoint. Nothing is downloaded, and no code in the file runs.
    num_classes : int, optional
        Number of outputs. timm replaces the head of pretrained weights by a random one;
        torchvision cannot. A callable gets ``num_classes=`` only if it is given here.
    class_names : sequence of str or path, optional
        Names of the outputs in order, or a text file with one on each line.

    Raises
    ------
    ModelError
        The network does not exist, or cannot be built with these arguments.
    WeightsError
        The weights file is missing, damaged, not a state dict, or does not fit the network.
    DownloadError
        The published weights cannot be reached.

    Examples
    --------
    >>> network = load_model("timm:resnet10t", pretrained=False, num_classes=10)
    >>> network.input_size
    (3, 176, 176)
    """
    if num_classes is not None and num_classes < 1:
        raise OptionError(f"num_classes is {num_classes}; a network has 1 or more outputs")
    source, _, rest = name.partition(":") if ":" in name else ("timm", "", name)
    download = pretrained and weights is None
    if source in _LIBRARIES:
        network = _LIBRARIES[source](name, rest, download, num_classes)
    elif all(part.isidentifier() for part in [*source.split("."), *rest.split(".")]):
        network = _load_python(name, source, rest, num_classes)
    else:
        raise ModelError(f"unknown network {name!r}; give {_FORMS}")
    if weights is not None:
        load_weights(network.module, Path(weights), network.name)
    if class_names is not None:
        known = len(network.class_names) if network.class_names else None
        count = num_classes or known or getattr(network.module, "num_classes", None)
        network.class_names = _read_class_names(class_names, network.name, count)
    network.module.eval()
    return network


def _load_timm(name: str, timm_name: str, download: bool, num_classes: int | None) -> Network:
    import timm
    from timm.data import create_transform, resolve_model_data_config
    from torchvision import transforms

    architecture = timm_name.partition(".")[0]
    if not timm.is_model(architecture):
        near = ", ".join(nearest(timm_name, timm.list_models()))
        raise ModelError(f"timm has no network {timm_name!r}; nearest: {near}; or give {_FORMS}")
    try:
        config = timm.models.get_pretrained_cfg(timm_name)
    except RuntimeError:
        tags = nearest(timm_name, timm.list_models(f"{architecture}.*", pretrained=True))
        raise ModelError(
            f"timm has no weights {timm_name!r} for {architecture!r}; nearest: "
            f"{', '.join(tags) or 'none, it has no pretrained weights'}"
        ) from None
    if download and (config is None or not config.has_weights):
        raise ModelError(
            f"timm has no pretrained weights for {timm_name!r}; use pretrained=False "
            f"(--no-pretrained) for random weights, or weights=FILE (--weights FILE)"
        )
    with building(name, download):
        if download:
            reach_hub(config)
        kwargs = {} if num_classes is None else {"num_classes": num_classes}
        module = timm.create_model(timm_name, pretrained=download, **kwargs)
    data = resolve_model_data_config(module)
    steps = create_transform(**data, is_training=False).transforms
    size = data["input_size"]
    return Network(
        module=module,
        transform=transforms.Compose([*convert_mode(size[0]), *steps]),
        input_size=size,
        class_names=imagenet_names(module, module.num_classes),
        name=name,
    )


def _load_torchvision(name: str, rest: str, download: bool, num_classes: int | None) -> Network:
    from torchvision import models, transforms

    architecture, _, tag = rest.partition(".")
    known = models.list_models(module=models)
    if architecture not in known:
        near = ", ".join(nearest(architecture, known))
        raise ModelError(f"torchvision has no image classifier {architecture!r}; nearest: {near}")
    published = models.get_model_weights(architecture)
    if tag and tag not in published.__members__:
        have = ", ".join(published.__members__)
        raise ModelError(f"torchvision has no weights {tag!r} for {architecture!r}; it has {have}")
    entry = published[tag] if tag else published.DEFAULT
    categories = list(entry.meta["categories"])
    count = len(categories) if num_classes is None else num_classes
    if download and count != len(categories):
        raise ModelError(
            f"torchvision's weights for {architecture!r} have {len(categories)} outputs, not "
            f"num_classes={count}; use pretrained=False (--no-pretrained) or weights=FILE"
        )
    transform = entry.transforms()
    height, width = (transform.crop_size * 2)[:2]
    kwargs: dict[str, Any] = {"num_classes": count}
    # torchvision changes the network for its own weights, but not for the same weights from a file.
    if architecture in ("googlenet", "inception_v3") and not download:
        kwargs |= {"transform_input": True, "init_weights": True}
    if architecture.startswith("vit_"):
        kwargs["image_size"] = height
    with building(name, download):
        if download:
            reach_url(entry.url)
        module = models.get_model(architecture, weights=entry if download else None, **kwargs)
    return Network(
        module=module,
        transform=transforms.Compose([*convert_mode(3), transform]),
        input_size=(3, height, width),
        class_names=categories if count == len(categories) else None,
        name=name,
    )


#: By the word before the colon: a function of the full name, the part after the colon, whether to
#: download weights, and the number of outputs.
_LIBRARIES: dict[str, Callable[[str, str, bool, int | None], Network]] = {
    "timm": _load_timm,
    "torchvision": _load_torchvision,
}


def _load_python(name: str, path: str, attribute: str, num_classes: int | None) -> Network:
    kwargs = {} if num_classes is None else {"num_classes": num_classes}
    here = str(Path.cwd())
    importlib.invalidate_caches()
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(path)
        for part in attribute.split("."):
            if not hasattr(found, part):
                near = ", ".join(nearest(part, [n for n in vars(found) if n[0] != "_"]))
                raise ModelError(f"network {name!r}: {path!r} has no {part!r}; nearest: {near}")
            found = getattr(found, part)
        if not isinstance(found, (nn.Module, Network)):
            found = found(**kwargs)
    except ModelError:
        raise
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise ModelError(f"network {name!r} needs the module {error.name!r}") from error
        raise ModelError(
            f"network {name!r}: no Python module {error.name!r} in {here} or where Python looks; "
            f"networks are named {_FORMS}"
        ) from None
    except Exception as error:
        raise ModelError(f"network {name!r} cannot be built: {one_line(error)}") from error
    finally:
        sys.path.remove(here)
    if isinstance(found, Network):
        return found
    if not isinstance(found, nn.Module):
        kind = type(found).__name__
        raise ModelError(f"{name!r} returned a {kind}; a torch.nn.Module or a Network is needed")
    size = stated_input_size(found)
    return Network(found, plain_transform(size[0] if size else None), size, None, name)


def _read_class_names(
    names: Sequence[str] | str | os.PathLike[str], network: str, count: int | None
) -> list[str]:
    where = "class_names"
    if isinstance(names, (str, os.PathLike)):
        where = f"class names file {os.fspath(names)}"
        try:
            names = Path(names).read_text(encoding="utf-8").rstrip().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{where} cannot be read: {one_line(error)}") from error
    names = [str(name).strip() for name in names]
    if "" in names:
        raise ModelError(f"{where}: name {names.index('') + 1} is blank; give one for each output")
    if count is not None and len(names) != count:
        raise ModelError(
            f"{where} holds {len(names)} names but network {network!r} has {count} outputs"
        )
    return names
