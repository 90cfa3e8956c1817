"""``sample --trace``: the page that it writes, and what a browser makes of it."""

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from ..chain import LENGTH, Chain
from ..command_line import Cli

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update"),
    *("--disable-background-networking", "--disable-sync", "--hide-scrollbars", "--window-size=1000,1400"),
)
MASK, NEW, SAME = (212, 210, 202), (255, 213, 74), (216, 239, 217)  # of the light page
STEPS = 6

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
Browser = Callable[..., str]


def data_of(page: Path) -> dict[str, Any]:
    """What a page shows."""
    found = re.search(r'<script type="application/json" id="trace">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


@pytest.fixture
def page(cli: Cli, tiny_chain: Chain, tmp_path: Path) -> Path:
    """Of a student that took three latent and six decoding steps."""
    line = ("sample", "--n", "1", "--steps", "3", "--decode-steps", str(STEPS), "--trace", "t.html")
    assert cli(*line, "--model", tiny_chain.student).status == 0
    return tmp_path / "t.html"


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    """Opens a page at a fragment in a new Chromium, given some options, for ten seconds of virtual time: its stdout."""

    def call(page: Path, fragment: str = "", *options: str) -> str:
        profile = tmp_path / "profile"
        shutil.rmtree(profile, ignore_errors=True)
        done = subprocess.run(
            [
                *(str(CHROMIUM), *OPTIONS, f"--user-data-dir={profile}", "--virtual-time-budget=10000"),
                *(*(options or ("--dump-dom",)), f"{page.as_uri()}#{fragment}"),
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def part(dom: str, name: str) -> str:
    """The text of a section, its legend left out."""
    section = dom[dom.index(f'<section id="{name}"') :]
    return section[section.index('<div class="text">') : section.index("</section>")]


def count(dom: str, kind: str, name: str = "decoding") -> int:
    return part(dom, name).count(f'class="token {kind}"')


def says(dom: str) -> list[str]:
    return re.findall(r"<output[^>]*>(.*?)</output>", dom)


def with_script(page: Path, script: str) -> Path:
    """A copy of the page that does something by itself."""
    copy = page.with_name("copy.html")
    copy.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    return copy


def test_the_samples_come_as_usual_and_the_page_shows_the_first(
    warm_shell: Cli, tiny_chain: Chain, tmp_path: Path
) -> None:
    line = ("sample", "--model", str(tiny_chain.student), "--n", "2", "--steps", "2", "--seed", "4")
    plain, traced = warm_shell(*line), warm_shell(*line, "--trace", "t.html")
    assert (traced.status, traced.out, traced.errors) == (0, plain.out, ["t.html: how sample 0 was decoded"])
    assert [path.name for path in tmp_path.iterdir()] == ["t.html"]
    found = data_of(tmp_path / "t.html")
    assert found["sample"] == json.loads(traced.out.splitlines()[0])
    assert len(found["revealed"]) == LENGTH
    assert [estimate["step"] for estimate in found["estimates"]] == [1, 2]


@pytest.mark.parametrize("stage", ["mdlm", "ae"])
def test_where_no_latent_is_drawn_the_page_has_the_decoding_alone(
    cli: Cli, tiny_chain: Chain, tmp_path: Path, stage: str
) -> None:
    found = cli("sample", "--model", getattr(tiny_chain, stage), "--n", "1", "--trace", "t.html", "--out", "s.jsonl")
    assert (found.status, found.out) == (0, "")
    assert found.errors == ["t.html: how sample 0 was decoded", "s.jsonl: 1 samples"]
    assert data_of(tmp_path / "t.html")["estimates"] == []


@pytest.mark.parametrize("name", ["nowhere/t.html", "."])
def test_a_page_that_cannot_be_written_is_an_error_before_anything_is_drawn(
    cli: Cli, tiny_chain: Chain, name: str
) -> None:
    found = cli("sample", "--model", tiny_chain.mdlm, "--n", "1", "--trace", name)
    assert (found.status, found.out, len(found.errors)) == (1, "", 1)
    assert re.fullmatch(rf"error: cannot write {re.escape(name)} \(.+\); choose another --trace", found.errors[0])


def test_a_failing_trace_leaves_the_old_page(
    cli: Cli, tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diladiff_cli.model import Model

    def failing(*_: object) -> None:
        raise RuntimeError("broke off")

    monkeypatch.setattr(Model, "trace", failing)
    (tmp_path / "t.html").write_text("old")
    assert cli("sample", "--model", tiny_chain.mdlm, "--trace", "t.html").status == 1
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"t.html": "old"}


def test_of_several_processes_the_main_one_writes_the_page(
    cli: Cli, tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diladiff_cli.cli.sample.is_main_process", lambda: False)
    assert cli("sample", "--model", tiny_chain.mdlm, "--n", "1", "--trace", "t.html").status == 0
    assert list(tmp_path.iterdir()) == []


@in_browser
@pytest.mark.slow
def test_a_step_shows_just_the_tokens_that_are_known_by_then(browser: Browser, page: Path) -> None:
    revealed = data_of(page)["revealed"]
    for step in (0, 3, STEPS):
        dom = browser(page, f"step={step}")
        masked, fresh = sum(at > step for at in revealed), revealed.count(step)
        assert count(dom, "masked") == masked
        assert (count(dom, "new"), count(dom, "kept")) == (fresh, LENGTH - masked - fresh)
        assert says(dom)[0] == f"Step {step} of {STEPS}: {fresh} revealed, {masked} of {LENGTH} tokens masked"
    assert masked == 0


@in_browser
@pytest.mark.slow
def test_a_prompt_is_there_from_the_start(browser: Browser, cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    options = ("--prompt", "the old dog", "--steps", "2", "--n", "1", "--trace", "t.html")
    assert cli("sample", "--model", tiny_chain.student, *options).status == 0
    found = data_of(tmp_path / "t.html")
    given = found["sample"]["prompt_tokens"]
    dom = browser(tmp_path / "t.html", "step=0&latent=1")
    assert (count(dom, "kept"), count(dom, "masked"), count(dom, "new")) == (given, LENGTH - given, 0)
    assert (dom.count(', of the prompt"'), '<span id="but-given">' in dom) == (given, True)
    first, last = found["estimates"][0]["token_ids"], found["sample"]["token_ids"]
    same = sum(a == b for a, b in zip(first, last, strict=True)) - given
    assert f"Latent step 1 of 2: {same} of {LENGTH - given} tokens as in the final text" == says(dom)[1]


@in_browser
@pytest.mark.slow
def test_steps_end_where_all_is_revealed(browser: Browser, cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    options = ("--order", "threshold", "--threshold", "0", "--n", "1", "--trace", "t.html")
    assert cli("sample", "--model", tiny_chain.mdlm, *options).status == 0
    dom = browser(tmp_path / "t.html", "step=9")
    assert says(dom)[0] == f"Step 1 of 1: {LENGTH} revealed, 0 of {LENGTH} tokens masked"


@in_browser
@pytest.mark.slow
def test_at_the_last_step_the_page_holds_the_text(browser: Browser, page: Path) -> None:
    found = data_of(page)
    dom = browser(page, f"step={STEPS}&latent=3")
    for name in ("decoding", "latent"):
        shown = html.unescape(re.sub(r"<p class=.*|<[^>]*>", "", part(dom, name), flags=re.DOTALL))
        assert shown.strip() == found["sample"]["text"].strip()


@in_browser
@pytest.mark.slow
def test_a_latent_step_shows_what_its_estimate_shares_with_the_final_text(browser: Browser, page: Path) -> None:
    found = data_of(page)
    for step, estimate in enumerate(found["estimates"], 1):
        dom = browser(page, f"latent={step}")
        pairs = zip(estimate["token_ids"], found["sample"]["token_ids"], strict=True)
        same = sum(a == b for a, b in pairs)
        assert (count(dom, "same", "latent"), count(dom, "other", "latent")) == (same, LENGTH - same)
        assert says(dom)[1] == f"Latent step {step} of 3: {same} of {LENGTH} tokens as in the final text"


@in_browser
@pytest.mark.slow
def test_an_mdlm_has_no_latent_part(browser: Browser, cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    assert cli("sample", "--model", tiny_chain.mdlm, "--n", "1", "--trace", "t.html").status == 0
    dom = browser(tmp_path / "t.html", "step=1")
    assert re.search(r'<section id="latent"[^>]* hidden', dom)
    assert count(dom, "masked") > 0
    assert count(dom, "same", "latent") == count(dom, "other", "latent") == 0


@in_browser
@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "step", "latent"),
    [
        ("press('ArrowRight')", 3, 1),
        ("press('ArrowLeft'); press('ArrowLeft'); press('ArrowLeft')", 0, 1),
        ("press('End')", STEPS, 1),
        ("press('End'); press('Home')", 0, 1),
        ("press(' ')", STEPS, 1),
        ("press(' '); press(' ')", 2, 1),
        ("document.querySelector('#decoding .play').click()", STEPS, 1),
        ("document.querySelector('#latent .forth').click()", 2, 2),
        ("document.querySelector('#latent .play').click()", 2, 3),
        ("press('End'); document.querySelector('#decoding .play').click()", STEPS, 1),
        ("const s = document.querySelector('#decoding input'); s.value = 4; s.dispatchEvent(new Event('input'))", 4, 1),
        ("location.hash = 'step=5&latent=3'", 5, 3),
        ("press('ArrowRight'); document.title = location.hash", 3, 1),
    ],
)
def test_keys_buttons_slider_and_address_move_the_steps(
    browser: Browser, page: Path, script: str, step: int, latent: int
) -> None:
    press = "function press(key) { document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true})); }"
    dom = browser(with_script(page, f"{press} {script}"), "step=2")
    assert [says(dom)[0].split(":")[0], says(dom)[1].split(":")[0]] == [
        f"Step {step} of {STEPS}",
        f"Latent step {latent} of 3",
    ]
    assert len(re.findall(r'<button type="button" class="play">Play</button>', dom)) == 2
    if "title" in script:
        assert "<title>#step=3</title>" in dom


@in_browser
@pytest.mark.slow
@pytest.mark.parametrize("guarded", [True, False], ids=["as written", "without its policy"])
def test_the_page_may_not_ask_the_network_for_anything(browser: Browser, page: Path, guarded: bool) -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        script = f"new Image().src = '{address}/image'; fetch('{address}/fetch', {{mode: 'no-cors'}}).catch(() => 0);"
        trying = with_script(page, script)
        if not guarded:
            trying.write_text(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", trying.read_text()))
        browser(trying)
        server.shutdown()
    assert sorted(asked) == ([] if guarded else ["/fetch", "/image"])


@in_browser
@pytest.mark.slow
def test_a_screenshot_shows_masked_new_and_agreeing_tokens(browser: Browser, page: Path, tmp_path: Path) -> None:
    found: dict[int, list[int]] = {}
    for step in (0, STEPS):
        picture = tmp_path / f"{step}.png"
        browser(page, f"step={step}&latent=3", f"--screenshot={picture}", "--blink-settings=preferredColorScheme=1")
        pixels = (imread(picture)[..., :3] * 255).round().astype(np.uint8)
        assert pixels.shape == (1400, 1000, 3)
        found[step] = [int((pixels == color).all(-1).sum()) for color in (MASK, NEW, SAME)]
    (masked, legend_of_new, same), (legend_of_masks, new, same_later) = found[0], found[STEPS]
    assert legend_of_masks > 0 < legend_of_new
    assert masked > 2 * legend_of_masks
    assert new > 2 * legend_of_new
    assert same == same_later > 2 * legend_of_new


@in_browser
def test_a_page_says_where_the_base_takes_over(cli: Cli, tiny_chain: Chain, tmp_path: Path, browser: Browser) -> None:
    line = ("sample", "--n", "1", "--decode-steps", str(STEPS), "--trace", "t.html", "--model", tiny_chain.student)
    for until, said in (
        ("0.5", ", and the latent; the last 3 are the base's, which sees no latent"),
        ("0", ", and the latent"),
    ):
        assert cli(*line, "--latent-until", until).status == 0
        (found,) = re.findall(r'<span id="and-latent">(.*?)</span>', browser(tmp_path / "t.html"))
        assert html.unescape(found) == said
