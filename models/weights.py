"""Weights on disk (safetensors with a JSON card) and the networks they make.

One file holds named modules: trunk (with f4), rpn, mask, reid, remp, remp_plain, msk.
Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from cache.files import write_file
from models.backbone import BACKBONES, Trunk
from models.config import Architecture
from models.errors import BadWeights
from models.mask_network import MaskNetwork
from models.msk import MSK
from models.networks import MODULES, Networks
from models.reid_network import ReIDNetwork
from models.remp import ReMP
from models.rpn import RPN

CARD = "dyenet"
STORED = (torch.float16, torch.float32, torch.float64, torch.int64)
"""what tensors a file may hold"""


def build(module: str, architecture: Architecture) -> nn.Module:
    """A freshly initialised module by its name in the file."""
    a = architecture
    if module == "trunk":
        return Trunk(a)
    if module == "msk":
        return MSK(a)
    channels = BACKBONES[a.backbone].channels
    if module == "rpn":
        return RPN(a, channels)
    if module == "mask":
        return MaskNetwork(a, channels)
    if module == "reid":
        return ReIDNetwork(a, channels)
    return ReMP(a, channels, attention=module == "remp")


def save(
    path: Path,
    architecture: Architecture,
    modules: Mapping[str, nn.Module],
    card: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> None:
    """Write modules and their card; the file appears whole or not at all.

    card: what the model was trained on and how, as JSON. `dtype` converts floating
    tensors for storage.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            stored = value.to(dtype) if dtype and value.is_floating_point() else value
            tensors[f"{name}.{key}"] = stored.detach().cpu().contiguous()
    header = {"architecture": architecture.to_dict(), "modules": sorted(modules), **card}
    write_file(path, serialise(tensors, {CARD: json.dumps(header, sort_keys=True)}))


def read_header(path: Path) -> dict[str, Any]:
    """The JSON card of a weights file: architecture, modules, data, recipe.

    Raises BadWeights if the file is missing, truncated or not one of ours, or its card is not
    what save() writes.
    """
    if not path.is_file():
        raise BadWeights(f"weights {path}: no such file (a name such as 'compact' or a path)")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise BadWeights(
            f"weights {path}: truncated or not a safetensors file ({error})"
        ) from error
    if CARD not in metadata:
        raise BadWeights(f"weights {path}: a safetensors file, but not DyeNet weights (no card)")
    return _card(path, metadata[CARD])


def _card(path: Path, text: str) -> dict[str, Any]:
    """A card from its text; BadWeights says what is wrong with it."""
    try:
        card = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadWeights(f"weights {path}: its card is no JSON ({error})") from error
    if not isinstance(card, dict) or not isinstance(card.get("architecture"), dict):
        raise BadWeights(f"weights {path}: its card names no architecture")
    modules = card.get("modules")
    if not isinstance(modules, list) or not modules or not set(map(str, modules)) <= set(MODULES):
        raise BadWeights(
            f"weights {path}: its card lists the modules {modules}, which must be some of "
            f"{', '.join(MODULES)}"
        )
    return card


def read_architecture(path: Path) -> Architecture:
    """The architecture a weights file was trained for."""
    return _architecture(path, read_header(path))


def _architecture(path: Path, card: Mapping[str, Any]) -> Architecture:
    try:
        return Architecture(**card["architecture"])
    except (TypeError, ValueError) as error:
        raise BadWeights(f"weights {path}: made for another architecture ({error})") from error


def module_digests(path: Path) -> dict[str, str]:
    """Digest of each module's tensors, by module name; what enters the keys."""
    card = read_header(path)
    with safe_open(path, "pt") as file:
        unlisted = {key.split(".", 1)[0] for key in file.keys()} - {*card["modules"]}  # noqa: SIM118
        if unlisted:
            raise BadWeights(
                f"weights {path}: holds {', '.join(sorted(unlisted))}, which its card does not list"
            )
        return {name: _digest(card, name, _tensors(path, file, name)) for name in card["modules"]}


def _tensors(path: Path, file: Any, module: str) -> dict[str, Tensor]:
    """A module's tensors by their names in it, copied; BadWeights for one that is not finite."""
    prefix = f"{module}."
    found: dict[str, Tensor] = {}
    for key in file.keys():  # noqa: SIM118
        if key.startswith(prefix):
            value = file.get_tensor(key).clone()
            if value.dtype not in STORED:
                raise BadWeights(f"weights {path}: tensor {key} is {value.dtype}")
            if not torch.isfinite(value).all():
                raise BadWeights(f"weights {path}: tensor {key} holds NaN or infinite values")
            found[key.removeprefix(prefix)] = value
    return found


def _digest(card: Mapping[str, Any], module: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(card["architecture"], sort_keys=True).encode())
    for key in sorted(tensors):
        value = tensors[key].numpy()
        digest.update(f"{module}.{key} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def load_modules(
    path: Path,
    modules: Iterable[str] | None = None,
    planned: Mapping[str, str] | None = None,
) -> dict[str, nn.Module]:
    """The modules of a file (all, or the named ones) as float32 networks.

    planned: module_digests() that the tensors must have. Raises BadWeights as load().
    """
    return _modules(path, read_header(path), modules, planned)


def _modules(
    path: Path,
    header: Mapping[str, Any],
    modules: Iterable[str] | None,
    planned: Mapping[str, str] | None,
) -> dict[str, nn.Module]:
    architecture = _architecture(path, header)
    wanted = list(header["modules"] if modules is None else modules)
    missing = sorted(set(wanted) - set(header["modules"]))
    if missing:
        raise BadWeights(
            f"weights {path}: holds no {', '.join(missing)} "
            f"(it holds {', '.join(header['modules'])})"
        )
    built: dict[str, nn.Module] = {}
    with safe_open(path, "pt") as file:
        for name in wanted:
            state = _tensors(path, file, name)
            if planned is not None and planned.get(name) != _digest(header, name, state):
                raise BadWeights(f"weights {path}: changed since the run was planned; run again")
            try:
                # Without memory first: sizes that only the card names may be beyond all measure.
                with torch.device("meta"):
                    build(name, architecture).load_state_dict(state, assign=True)
                built[name] = build(name, architecture)
                built[name].load_state_dict(state)
            except (RuntimeError, ValueError) as error:
                reason = " ".join(str(error).split())[:200]
                raise BadWeights(
                    f"weights {path}: module {name} does not fit its architecture ({reason})"
                ) from error
    return built


def load(
    path: Path,
    device: str = "cpu",
    precision: str = "bf16",
    modules: Iterable[str] | None = None,
    planned: Mapping[str, str] | None = None,
) -> Networks:
    """Networks ready for inference on `device` in `precision`.

    planned: as load_modules(). Raises BadWeights: missing, truncated, another architecture,
    without a module, not finite, or other tensors than planned.
    """
    card = read_header(path)
    built = _modules(path, card, modules, planned)
    return Networks(_architecture(path, card), built, device, precision)


def initial_state(name: str) -> dict[str, Tensor]:
    """Tensors to start from, in torchvision's own names for the backbone.

    name: a safetensors file, or one of torchvision's weights such as
    `DeepLabV3_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1`; several, for joined backbones,
    separated by commas. Raises BadWeights if one is not to be had.
    """
    if "," in name:
        parts = (initial_state(part) for part in name.split(","))
        return {key: value for part in parts for key, value in part.items()}
    if not name.endswith(".safetensors"):
        return _of_torchvision(name)
    from safetensors.torch import load_file

    try:
        return {key: value.float() for key, value in load_file(name).items()}
    except (SafetensorError, OSError) as error:
        raise BadWeights(f"weights {name}: cannot be read ({error})") from error


def _of_torchvision(name: str) -> dict[str, Tensor]:
    from torchvision.models import get_weight

    try:
        state = get_weight(name).get_state_dict(progress=False, weights_only=True)
    except (ValueError, AttributeError, OSError) as error:
        raise BadWeights(
            f"weights {name}: neither a .safetensors file nor weights of torchvision that can be "
            f"fetched ({error})"
        ) from error
    return {key.removeprefix("backbone."): value for key, value in state.items()}


def load_initial(state: Mapping[str, Tensor], module: nn.Module) -> None:
    """Start a fresh module from initial_state(): its backbone, or its conv5_x if it fits.

    Raises BadWeights if the backbone lacks a tensor or finds one of another shape.
    """
    if isinstance(module, Trunk | MSK):
        body = {}
        for name in module.backbone.body.state_dict():
            part, _, inner = name.partition(".")
            source = inner if part in BACKBONES else name
            if part == "reduce":
                continue
            if source not in state:
                raise BadWeights(
                    f"initial weights: {source} of {module.backbone.name} is not among them"
                )
            body[f"body.{name}"] = state[source]
        if isinstance(module, MSK):
            module.load_backbone(body)
        else:
            _load_backbone(body, module)
    # conv5_x is torchvision's layer4; N_R has its own inside
    block = getattr(getattr(module, "recur", module), "conv5", None)
    if isinstance(block, nn.Module):
        own = block.state_dict()
        found = {name: state.get(f"layer4.{name}") for name in own}
        if all(v is not None and v.shape == own[name].shape for name, v in found.items()):
            block.load_state_dict(found)


def _load_backbone(state: Mapping[str, Tensor], trunk: Trunk) -> None:
    try:
        trunk.backbone.load_state_dict(trunk.backbone.state_dict() | dict(state))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise BadWeights(f"initial weights: do not fit {trunk.backbone.name} ({reason})") from error
