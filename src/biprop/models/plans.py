"""The networks as data: names, structures, and the options that all share, without PyTorch.

`models` builds modules from a plan; `graph` makes of it what the engine runs.

Names are those of the original research code: `_BinAct` has binary activations (MPT-1/1), `Wide`
takes a width multiplier.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import UserError, did_you_mean


@dataclass(frozen=True)
class PlainPlan:
    """One network without branches, as tokens from left to right.

    c64: 3x3 convolution without bias; M: 2x2 max pool; B: batch norm; R: ReLU; A: binary
    activation, with sign(0) = +1; Z: binary activation with sign(0) = 0, behind a ReLU, where the
    other would be +1 for every image; W: fixed 2x2 whitening convolution (`models.whitening`), 8
    filters a channel, without padding; G: maximum over the whole map, only as the last token of
    `convs`; ( ... ): a shortcut, the input of the tokens in between plus what they compute. In the
    head c256 is a linear layer, written as a 1x1 convolution as in the original research code, and
    c has one output per class.

    Attributes:
        convs: the convolutions and what follows each.
        head: the linear layers and what follows each; the last one returns the logits.
        wide: whether `width_mult` scales its widths.
    """

    convs: str
    head: str
    wide: bool = False

    @property
    def has_global_pool(self) -> bool:
        """Whether the convolutions end with a maximum over the whole map, so that 1 x 1 is left."""
        return self.convs.endswith("G")


def parts(tokens: str) -> list[str | tuple[str, ...]]:
    """The tokens of a plan in their order, those between parentheses together as a tuple."""
    found: list[str | tuple[str, ...]] = []
    inside: list[str] | None = None
    for token in tokens.split():
        if token == "(":
            inside = []
        elif token == ")":
            found.append(tuple(inside or ()))
            inside = None
        elif inside is None:
            found.append(token)
        else:
            inside.append(token)
    return found


_FAST = (64, 128, 256)
_FAST_GROUPS = {
    "Fast6": ("c M B R c B R", "c M B R c B R"),
    "Fast6_BinAct": ("c M B A c B A", "c M B A c B R"),
    "FastRes6_BinAct": ("c M B ( A c B ) A", "c M B ( A c B ) R"),
}
"""Groups of the fast networks, and their last ones: like those of K. Jordan, "94% on CIFAR-10 in
3.29 seconds on a single GPU", arXiv 2404.00498, but with ReLU, and with batch norm of the logits as
their scale. FastRes6_BinAct has a shortcut around each convolution that changes no shape, so that
floats pass it and not only their signs, as in Z. Liu et al., "Bi-Real Net", ECCV 2018.
"""


def _pairs(widths: tuple[int, ...], pair: str, last: str | None = None) -> str:
    """The tokens `pair` once per width, each convolution with that width; `last` instead for the
    last width.
    """
    plans = [pair] * (len(widths) - 1) + [last or pair]
    return " ".join(
        plan.replace("c", f"c{width}") for plan, width in zip(plans, widths, strict=True)
    )


_CONV = (64, 128, 256, 512)
_VGG = (128, 256, 512)
_WIDE_VGG = (16, 32, 64)


def _conv_plans() -> dict[str, PlainPlan]:
    forms = {
        "": ("c R c R M", "c256 R c256 R c"),
        "_BinAct": ("c B A c M B A", "c256 B A c256 B A c"),
    }
    plans = {}
    for depth in (2, 4, 6, 8):
        for suffix, (pair, head) in forms.items():
            convs = _pairs(_CONV[: depth // 2], pair)
            plans[f"Conv{depth}{suffix}"] = PlainPlan(convs, head)
            plans[f"Conv{depth}Wide{suffix}"] = PlainPlan(convs, head, wide=True)
    return plans


PLAIN: dict[str, PlainPlan] = {
    "FC": PlainPlan("", "c300 R c100 R c"),
    **_conv_plans(),
    "Conv8Wide_BinAct_ReLU": PlainPlan(
        _pairs(_CONV, "c A c M B R Z", "c A c M B R"), "c256 A c256 B R c", wide=True
    ),
    "Conv8Wide_BinAct_ReLU_Final_Act": PlainPlan(
        _pairs(_CONV, "c B A c M B A"), "c256 B A c256 B R c", wide=True
    ),
    **{
        name: PlainPlan(f"W R {_pairs(_FAST, group, last)} G", "c B", wide=True)
        for name, (group, last) in _FAST_GROUPS.items()
    },
    "VGG_Small": PlainPlan("c128 R c128 M B c256 c256 M B c512 c512 M B R", "c"),
    "VGG_Small_BinAct": PlainPlan(_pairs(_VGG, "c A c M B A", "c A c M B R"), "c"),
    "VGG_Small_noReLU_BinAct": PlainPlan(_pairs(_VGG, "c A c M B A", "c A c M B R"), "c"),
    "VGG_Small_bn_BinAct": PlainPlan(_pairs(_VGG, "c B A c M B A", "c B A c M B R"), "c"),
    "Wide_VGG_Small": PlainPlan(
        _pairs(_WIDE_VGG, "c B A c M B A", "c B A c M B R"), "c", wide=True
    ),
    "Wide_VGG_Small_132": PlainPlan(_pairs(_WIDE_VGG, "c B R c M B R"), "c", wide=True),
}
"""FC, Conv2/4/6/8 and VGG-Small, with their wide and binary-activation forms."""


@dataclass(frozen=True)
class ResidualPlan:
    """One residual network.

    Attributes:
        blocks: number of blocks of each stage.
        widths: channels of each stage; a bottleneck block has four times that many output channels.
        kind: "basic", "bottleneck" or "preact".
        inner: bottleneck: factor of the inner width.
        stem: channels of the first convolution.
        stem_order: what follows it: B batch norm, A activation, M 3x3/2 max pool; for ImageNet
            (with M) it is 7x7/2, else 3x3.
        binary: binary activations instead of ReLU.
        last_norm: where the last batch norm of a block acts: "before" the residual sum, "after" it,
            or "both" (in a basic block the same one twice, as in the original research code; in a
            bottleneck a fourth one).
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    kind: str = "basic"
    inner: int = 1
    stem: int = 64
    stem_order: str = "B A"
    binary: bool = False
    last_norm: str = "before"

    @property
    def imagenet(self) -> bool:
        """Whether the network has the stem for ImageNet: a 7x7 convolution and a max pool."""
        return "M" in self.stem_order


_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_WIDE = {2: (64, 192, 384, 768), 3: (64, 256, 512, 1024)}


def _cifar_plans() -> dict[str, ResidualPlan]:
    plans = {f"cResNet{depth}": ResidualPlan(_BLOCKS[depth]) for depth in (18, 34)}
    plans |= {
        f"cResNet{depth}": ResidualPlan(_BLOCKS[depth], kind="bottleneck") for depth in (50, 101)
    }
    plans |= {
        f"cWideResNet18_{factor}": ResidualPlan(_BLOCKS[18], widths)
        for factor, widths in _WIDE.items()
    }
    for depth in (20, 32, 44, 56, 110):
        plans[f"cResNet{depth}"] = ResidualPlan(((depth - 2) // 6,) * 3, (16, 32, 64), stem=16)
    plans |= {f"{name}_BinAct": replace(plan, binary=True) for name, plan in plans.items()}
    plans |= {
        f"{name}_v2": replace(plans[name], last_norm="after")
        for name in ("cResNet18", "cResNet18_BinAct")
    }
    # Pre-activation: the network of the binary cards in "A Winning Hand".
    return plans | {
        "WidePreActResNet": ResidualPlan(_BLOCKS[18], _WIDE[2], kind="preact", stem_order="")
    }


def _imagenet_plans() -> dict[str, ResidualPlan]:
    plans = {f"ResNet{depth}": ResidualPlan(_BLOCKS[depth]) for depth in (18, 34)}
    plans |= {
        f"ResNet{depth}": ResidualPlan(_BLOCKS[depth], kind="bottleneck") for depth in (50, 101)
    }
    plans |= {
        f"WideResNet{depth}_{factor}": ResidualPlan(_BLOCKS[depth], _WIDE[factor])
        for depth in (18, 34)
        for factor in (2, 3)
    }
    plans |= {
        f"WideResNet{depth}_2": ResidualPlan(_BLOCKS[depth], kind="bottleneck", inner=2)
        for depth in (50, 101)
    }
    forms = {}
    for name, plan in plans.items():
        both = plan.kind == "bottleneck"
        forms[name] = replace(plan, stem_order="B M A" if name == "WideResNet34_2" else "B A M")
        forms[f"{name}_BinAct"] = replace(plan, stem_order="B M A", binary=True)
        forms[f"{name}_v2"] = replace(plan, stem_order="M B A", last_norm="both")
        forms[f"{name}_BinAct_v2"] = replace(
            plan, stem_order="M B A", binary=True, last_norm="both" if both else "after"
        )
    forms["WideResNet50_2_BinAct_v2"] = replace(forms["WideResNet50_2_BinAct_v2"], widths=_WIDE[2])
    forms["WideResNet18_v2"] = forms.pop("WideResNet18_2_v2")  # the name that configurations know
    return forms


RESIDUAL: dict[str, ResidualPlan] = _cifar_plans() | _imagenet_plans()
"""For small images (cResNet, cWideResNet, WidePreActResNet) and for ImageNet (ResNet, WideResNet).
"""

NETWORKS: tuple[str, ...] = (*PLAIN, *RESIDUAL)

BATCH_NORMS = {"NonAffineBatchNorm": False, "AffineBatchNorm": True, "LearnedBatchNorm": True}
"""Batch-norm type -> whether it has weight and bias.

Affine and Learned are the same module: what trains is the run's choice.
"""


def takes_width(name: str) -> bool:
    """Whether the network's widths can be multiplied."""
    return name in PLAIN and PLAIN[name].wide


def in_words(name: str) -> str:
    """The structure of a network in a few words."""
    return _plain_in_words(PLAIN[name]) if name in PLAIN else _residual_in_words(RESIDUAL[name])


def _plain_in_words(plan: PlainPlan) -> str:
    convolutions, linear = plan.convs.count("c"), plan.head.count("c")
    words = [f"{convolutions} convolutions"] if convolutions else []
    words.append(f"{linear} linear layer{'s' if linear > 1 else ''}")
    if "W" in plan.convs:
        words.insert(0, "fixed whitening layer")
    if "(" in plan.convs.split():
        words.append("shortcuts")
    if "A" in plan.convs.split():
        words.append("binary activations")
    if plan.wide:
        words.append("takes --width-mult")
    return ", ".join(words)


def _residual_in_words(plan: ResidualPlan) -> str:
    kind = {"preact": "pre-activation"}.get(plan.kind, plan.kind)
    widths = "-".join(map(str, plan.widths))
    words = [f"{sum(plan.blocks)} {kind} blocks of {widths} channels"]
    if plan.inner > 1:
        words.append(f"{plan.inner} times as wide inside")
    if plan.binary:
        words.append("binary activations")
    if plan.last_norm != "before":
        where = {"after": "behind", "both": "in front of and behind"}[plan.last_norm]
        words.append(f"batch norm {where} the sum")
    return ", ".join(words)


def check_name(name: str) -> None:
    """Raise UserError if there is no network of this name."""
    if name.endswith(".py"):
        raise UserError(f"--arch {name}: name the network in the file, too: {name}:NAME")
    if name not in NETWORKS:
        raise UserError(f"arch = {name!r}: no such network{did_you_mean(name, NETWORKS)}")


def check(name: str, bn_type: str, width_mult: float) -> None:
    """Check the arguments of `build.build`, except the size of the images.

    Raises:
        ValueError: an unknown name or type, or a width multiplier that the network does not take.
    """
    check_name(name)
    if bn_type not in BATCH_NORMS:
        raise ValueError(f"bn_type = {bn_type!r}: must be one of {', '.join(BATCH_NORMS)}")
    wide = takes_width(name)
    if width_mult != 1 and not wide:
        raise ValueError(
            f"width_mult = {width_mult:g}: {name} has a fixed width; Fast6, FastRes6_BinAct,"
            " Conv2Wide to Conv8Wide and Wide_VGG_Small take one"
        )
    if wide and int(16 * width_mult) < 1:
        raise ValueError(f"width_mult = {width_mult:g}: leaves a layer without channels")
