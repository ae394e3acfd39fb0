"""Every Python block in README.md and docs/ runs, page by page, in one namespace."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unitprobe as up

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def code_of(page):
    return BLOCK.findall(page.read_text())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder with a folder of images, and no weights to download."""
    random = np.random.default_rng(0)
    for index in range(24):
        place = tmp_path / "images" / f"class {index % 4}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{index}.png")
    load_model = up.load_model

    def load_untrained(name):
        # The pages load pretrained weights; here they are random, and the head fits the classes.
        return load_model(name, pretrained=False, num_classes=4)

    monkeypatch.setattr(up, "load_model", load_untrained)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "page", [page for page in PAGES if code_of(page)], ids=lambda page: page.name
)
def test_the_code_of_a_page_runs(page, folder):
    namespace = {}
    for block in code_of(page):
        exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_headings_lead_somewhere(page):
    for target, heading in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        text = (page.parent / target).read_text() if target else page.read_text()
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        assert heading in [h.lower().replace(" ", "-") for h in headings], heading
