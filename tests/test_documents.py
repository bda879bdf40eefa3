"""What is written for people: the README stays short, links lead somewhere, and the package has its notices."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (ROOT, ROOT / "docs", ROOT / "artv_core/checkpoints")
DOCUMENTS = [path for folder in FOLDERS for path in sorted(folder.glob("*.md"))]
README_BYTES = 10_000


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(path: Path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        if heading:
            assert heading in headings(linked), target


def headings(path: Path) -> set[str]:
    """The anchors that a page gets on GitHub."""
    lines = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_the_readme_is_short():
    readme = (ROOT / "README.md").read_bytes()
    assert len(readme) <= README_BYTES
    assert readme.count(b"<!-- table:") <= 1


def test_the_package_has_its_licence_and_its_notices():
    """A wheel has only the files that are named here."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["license-files"]
    assert {path.name for pattern in patterns for path in ROOT.glob(pattern)} == {"LICENSE", "NOTICE"}
