"""What hands do on the scheduler's timeline, for the tests and for `benchmarks/front_end.py`."""

from typing import Any

from . import browser, workflow_format

WAIT_SECONDS = 15
NAME = "multi_prompt_long_video"

SCHEDULER = "app.graph.nodes.find(node => node.type == 'ARTVMultiPromptScheduler')"
WIDGET = SCHEDULER + ".widgets.find(widget => widget.name == '{}')"
ZOOM_TO_IT = f"""(scale) => {{
    const node = {SCHEDULER}
    app.canvas.ds.scale = scale
    app.canvas.ds.offset = [100 - node.pos[0], 80 - node.pos[1]]
    app.canvas.setDirty(true, true)
}}"""


class Timeline:
    """The page with the shipped workflow, and what one sees and does there."""

    def __init__(self, page: Any, scale: float = 1.25) -> None:
        self.page = page
        self.faults: list[str] = []
        page.set_default_timeout(WAIT_SECONDS * 1000)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", self.listen)
        browser.load(page, workflow_format.read_ui(NAME), NAME)
        page.evaluate(ZOOM_TO_IT, scale)
        self.wait_for(3)

    def listen(self, message: Any) -> None:
        """Keep what is complained of in the console, if this pack has to do with it."""
        told = f"{message.text} {message.location.get('url', '')}"
        if message.type == "error" and "artv" in told.lower():
            self.faults.append(told)

    @property
    def text(self) -> str:
        return self.page.evaluate(f"() => {WIDGET.format('text')}.value")

    @property
    def blocks(self) -> list[str]:
        return self.page.locator(".artv-timeline-block").all_inner_texts()

    def names(self) -> list[str]:
        """What a screen reader says of each block."""
        blocks = self.page.locator(".artv-timeline-block")
        return [blocks.nth(index).get_attribute("aria-label") for index in range(blocks.count())]

    def block(self, index: int) -> Any:
        return self.page.locator(".artv-timeline-block").nth(index)

    def border(self, index: int) -> Any:
        return self.page.locator(".artv-timeline-border").nth(index)

    def button(self, name: str) -> Any:
        return self.page.locator(f".artv-timeline-tools [data-name={name}]")

    def write(self, text: str, *blocks: str) -> None:
        """Type a text in the scheduler's own box, and wait for its prompts."""
        self.text_box.fill(text)
        self.page.wait_for_function(
            "(texts) => JSON.stringify([...document.querySelectorAll('.artv-timeline-words')].map(it => it.innerText))"
            " == JSON.stringify(texts) && !document.querySelector('.artv-timeline-body').inert",
            arg=blocks,
        )

    @property
    def text_box(self) -> Any:
        """The scheduler's own, not the timeline's."""
        if self.page.evaluate("() => !!LiteGraph.vueNodesMode"):
            node = self.page.evaluate(f"() => String({SCHEDULER}.id)")
            return self.page.locator(f"[data-node-id='{node}'] textarea").first
        return self.page.locator("textarea.comfy-multiline-input").first

    def wait_for(self, blocks: int) -> None:
        self.page.wait_for_function(
            "(count) => document.querySelectorAll('.artv-timeline-block').length == count"
            " && !document.querySelector('.artv-timeline-body').inert",
            arg=blocks,
        )

    def wait_for_text(self, expected: str) -> None:
        try:
            self.page.wait_for_function(f"(text) => {WIDGET.format('text')}?.value == text", arg=expected)
        except Exception:
            assert self.text == expected
            raise

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def drag(self, part: Any, frames: float, steps: int = 5, drop: bool = True) -> None:
        """Drag a border or a block along the timeline of 48 frames."""
        box, row = part.bounding_box(), self.page.locator(".artv-timeline-row").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + frames / 48 * row["width"], y, steps=steps)
        if drop:
            self.page.mouse.up()


def edit(page: Any) -> dict[str, bool]:
    """By mouse, by keyboard, and the other way round, by text; each waits until the other view shows it."""
    timeline = Timeline(page)
    before = timeline.text
    timeline.drag(timeline.border(0), 4)
    timeline.wait_for_text(before.replace('"16"', '"20"'))
    timeline.block(1).click()
    timeline.press("Shift+ArrowRight")
    timeline.wait_for_text(before.replace('"16"', '"20"').replace('"32"', '"33"'))
    timeline.text_box.fill("0: a fox\n8: a hare")
    timeline.wait_for(2)
    names = timeline.names()
    return {"mouse": True, "keyboard": True, "text": ["frames 8" in name for name in names] == [False, True]}
