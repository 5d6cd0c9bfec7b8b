"""What the README points at is there, and every template is in its table."""

import re
from pathlib import Path

from kit.copy import TEMPLATES

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINKS = re.findall(r"\]\(([^)#]+)\)", README)


def test_every_link_leads_somewhere() -> None:
    assert LINKS
    missing = [link for link in LINKS if "://" not in link and not (ROOT / link).exists()]
    assert missing == []


def test_every_template_is_in_the_table() -> None:
    assert {template.path for template in TEMPLATES} <= {link.rstrip("/") for link in LINKS}


def test_it_opens_with_the_two_commands() -> None:
    first_block = README.split("```")[1]
    assert re.findall(r"^make (\w+)", first_block, re.MULTILINE) == ["demo", "test"]
