"""`constraints.txt` pins what the requirements ask for, `constraints-docs.txt` what `make docs` does, each file by its hash."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def pins(file):
    """name -> (version, hashes)"""
    text = re.sub(r"^#.*\n", "", (ROOT / file).read_text(), flags=re.MULTILINE).replace("\\\n", "")
    found = {}
    for line in text.splitlines():
        what, *hashes = line.split(" --hash=")
        requirement = Requirement(what.strip())
        (pin,) = requirement.specifier
        assert pin.operator == "==" and "*" not in pin.version, line[:60]
        found[canonicalize_name(requirement.name)] = pin.version, [one.strip() for one in hashes]
    return found


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-docs.txt"])
def test_each_line_has_hashes(file):
    for name, (_, hashes) in pins(file).items():
        assert hashes and all(re.fullmatch("sha256:[0-9a-f]{64}", one) for one in hashes), name


def test_the_versions_are_those_that_the_requirements_allow():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    lines = [line.split("#")[0] for line in (ROOT / "requirements.txt").read_text().splitlines()]
    docs = extras.pop("docs")
    assert extras["gpu"][0].replace("[and-cuda]", "") in lines
    lines += [line for name, extra in extras.items() if name != "benchmarks" for line in extra if not line.startswith("unfold[")]
    lines += project["build-system"]["requires"]  # it is built without a network
    for file, requirements in (("constraints.txt", lines), ("constraints-docs.txt", docs)):
        pinned = pins(file)
        for requirement in map(Requirement, requirements):
            version, _ = pinned[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), f"{requirement}, {version}: run `make constraints`"


def test_what_both_pin_is_the_same():
    ours, docs = pins("constraints.txt"), pins("constraints-docs.txt")
    assert not {name: (ours[name], docs[name]) for name in ours.keys() & docs if ours[name] != docs[name]}
