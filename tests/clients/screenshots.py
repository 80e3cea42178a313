"""`python -m tests.clients.screenshots` takes the pictures for docs/server-side-rendering.md, of the shop in Node.js.

It needs what the tests of the browser need. The pictures are of somebody for whom there is something to be seen.
"""

import json
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.clients.browser_session import Chromium
from tests.conftest import ServerProcess
from tests.test_examples import Shop

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
VISITORS = ("ada", "bob", "carol", "dan", "eve", "frank", "grace", "heidi")
VIEWPORT = {"width": 820, "height": 500}


def main() -> None:
    with ExitStack() as started:
        folder = Path(started.enter_context(TemporaryDirectory()))
        demo = json.loads((ROOT / "gateway" / "demo.json").read_text())
        demo["projects"][0]["token"] = "phc_test"
        (folder / "flags.json").write_text(json.dumps(demo))
        flagstone = ServerProcess(folder, "--set", f"store.url=file:{folder / 'flags.json'}")
        started.callback(flagstone.end)
        shop = Shop("node", flagstone.wait_until_ready().url, 5000)
        started.callback(shop.end)
        shop.wait_until_open()
        browser = Chromium()
        started.callback(browser.close)
        user = next(name for name in VISITORS if shop.page(f"user={name}").shown[0::2] == ("blue", True))
        IMAGES.mkdir(exist_ok=True)
        for name, runs_scripts in (("ssr-before.png", False), ("ssr-after.png", True)):
            with browser.page(java_script_enabled=runs_scripts, viewport=VIEWPORT) as page:
                page.go(f"{shop.url}/?user={user}")
                if runs_scripts:
                    page.wait_for("document.documentElement.dataset.hydrated === 'true'")
                (IMAGES / name).write_bytes(page.picture())


if __name__ == "__main__":
    main()
