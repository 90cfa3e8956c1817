"""``sample --trace --corrector``: a browser shows which tokens a step changed."""

from pathlib import Path

import pytest

from ..chain import LENGTH, Chain
from ..command_line import Cli
from .test_trace_browser import Browser, browser, count, data_of, in_browser, says

__all__ = ["browser"]


@in_browser
@pytest.mark.slow
def test_corrections_are_marked_in_their_step_and_kept_after_it(
    browser: Browser, cli: Cli, tiny_chain: Chain, tmp_path: Path
) -> None:
    options = ("--decode-steps", "8", "--corrector", "0.5", "--temperature", "2", "--n", "1", "--trace", "t.html")
    assert cli("sample", "--model", tiny_chain.mdlm, *options).status == 0
    corrections = data_of(tmp_path / "t.html")["corrections"]
    assert [one["step"] for one in corrections] == [5, 6, 7, 8]
    for one in (corrections[0], corrections[-1]):
        dom, changed = browser(tmp_path / "t.html", f"step={one['step']}"), sum(one["changed"])
        assert says(dom)[0] == f"Step {one['step']} of 8: {changed} changed"
        assert (count(dom, "new"), count(dom, "kept"), count(dom, "masked")) == (changed, LENGTH - changed, 0)
        assert dom.count(f", changed in step {one['step']}") == changed
    assert '<span id="but-corrected">' in dom
