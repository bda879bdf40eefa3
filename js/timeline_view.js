/** The appearance of a timeline: its elements, and how a schedule is drawn in them. Has no effect when loaded alone. */

import { element, text } from "./page.js"
import { endsOf, layOut, ticks } from "./timeline_edits.js"
import { keyDown, keyDownAnywhere } from "./timeline_keys.js"

export const MOST_PROMPTS = 500 // that are drawn
const LEAST_BLOCK = 16 // pixels
const LEAST_WORDS = 32 // pixels; narrower blocks show no text
const TICK_APART = 64 // pixels
const TICK_LETTER = 7
const HUES = ["#4f8fe8", "#34a58a", "#b9973f", "#a973d8", "#d2766c", "#7d9a3c"]

export class View {
  constructor(timeline) {
    this.timeline = timeline
    this.layout = null // positions of frames, once something is drawn
    this.tools = this.makeTools()
    this.ruler = element("div", { class: "artv-timeline-ruler", "aria-hidden": "true" })
    this.row = this.makeRow()
    this.beyond = element("div", { class: "artv-timeline-beyond", hidden: "" })
    this.scroller = element("div", { class: "artv-timeline-scroller" }, this.ruler, this.row)
    this.start = numberField((value) => timeline.actions.setStart(value))
    this.length = numberField((value) => timeline.actions.setLength(value))
    this.startLabel = element("span")
    this.lengthLabel = element("span")
    this.seconds = element("span", { class: "artv-timeline-seconds" })
    this.body = this.makeBody()
    this.root = this.makeRoot()
    this.nameParts()
  }

  // Elements

  makeTools() {
    const { actions } = this.timeline
    const button = (name, keys, action) =>
      element("button", { type: "button", "data-name": name, "aria-keyshortcuts": keys, onclick: action })
    const tools = element(
      "div",
      { class: "artv-timeline-tools", role: "group" },
      button("split", "S", () => actions.splitAt(this.timeline.selected)),
      button("merge", "M", () => actions.merge()),
      button("left", "Control+ArrowLeft", () => actions.move(-1)),
      button("right", "Control+ArrowRight", () => actions.move(1)),
      button("remove", "Delete", () => actions.remove()),
      button("add", null, () => actions.add()),
    )
    tools.lastChild.classList.add("artv-timeline-add")
    return tools
  }

  makeRow() {
    const { pointer } = this.timeline
    return element("div", {
      class: "artv-timeline-row",
      role: "listbox",
      "aria-orientation": "horizontal",
      onpointerdown: (event) => pointer.down(event),
      onpointermove: (event) => pointer.move(event),
      onpointerup: (event) => pointer.up(event),
      onpointercancel: () => pointer.cancel(),
      ondblclick: (event) => pointer.doubleClick(event),
      onkeydown: (event) => keyDown(this.timeline, event),
    })
  }

  makeBody() {
    const fields = element(
      "div",
      { class: "artv-timeline-fields" },
      element("label", {}, this.startLabel, " ", this.start),
      element("label", {}, this.lengthLabel, " ", this.length),
      this.seconds,
    )
    const { root: prompt } = this.timeline.prompt
    return element("div", { class: "artv-timeline-body", inert: "" }, this.scroller, prompt, fields)
  }

  makeRoot() {
    const { notice, cautions, hint, spoken } = this.timeline.notices
    const listeners = {
      onkeydown: (event) => keyDownAnywhere(this.timeline, event),
      onpointerdown: keepOwnPointer,
      ondblclick: (event) => event.stopPropagation(),
    }
    const attributes = { class: "artv-timeline", role: "group", ...listeners }
    return element("div", attributes, this.tools, notice, this.body, cautions, hint, spoken)
  }

  /** Set all labels in the page's language. */
  nameParts() {
    this.root.setAttribute("aria-label", text("timeline.title"))
    this.row.setAttribute("aria-label", text("timeline.segments"))
    this.timeline.prompt.root.setAttribute("aria-label", text("timeline.prompt"))
    for (const button of this.tools.children) {
      button.textContent = text(`timeline.${button.dataset.name}`)
      button.title = text(`timeline.${button.dataset.name}Help`)
      button.setAttribute("aria-label", button.title)
    }
    this.tools.setAttribute("aria-label", text("timeline.tools"))
    this.startLabel.textContent = text("timeline.start")
    this.lengthLabel.textContent = text("timeline.length")
    this.timeline.notices.rest()
  }

  // Enabling and disabling

  get isLocked() {
    return this.body.inert
  }

  lock() {
    this.body.hidden = !this.timeline.schedule
    this.body.inert = true
    this.tools.hidden = true
  }

  unlock() {
    this.body.hidden = this.body.inert = this.tools.hidden = false
  }

  // Drawing

  draw() {
    const starts = this.timeline.schedule.prompts.map((prompt) => prompt.start)
    this.layout = layOut(starts, this.timeline.total, this.scroller.clientWidth || 300, LEAST_BLOCK)
    this.row.style.width = this.ruler.style.width = `${this.layout.width}px`
    const hasFocus = this.row.contains(document.activeElement)
    this.drawRuler(starts)
    this.drawBlocks()
    this.drawEnd()
    this.drawFields()
    if (hasFocus) this.focusBlock()
  }

  drawRuler(starts) {
    const { settings, total } = this.timeline
    const said = (frame) => `${frame} · ${secondsOf(frame, settings?.fps)}`
    const apart = Math.max(TICK_APART, said(total).length * TICK_LETTER)
    const labels = ticks(starts, total, this.layout, apart).map(({ frame, x, isLeft }) => {
      const label = element("span", { class: "artv-timeline-tick" }, said(frame))
      label.classList.toggle("artv-timeline-tick-left", isLeft)
      if (isLeft) label.style.right = `${this.layout.width - x}px`
      else label.style.left = `${x}px`
      return label
    })
    this.ruler.replaceChildren(...labels)
  }

  /** Elements are reused, so that one keeps the focus while prompts come and go. */
  drawBlocks() {
    const { schedule, total, pointer } = this.timeline
    const { prompts } = schedule
    const kinds = { block: "artv-timeline-block", border: "artv-timeline-border" }
    const blocks = matched(this.row, kinds.block, prompts.length, newBlock)
    const hasEnd = schedule.end !== null
    const borders = matched(this.row, kinds.border, prompts.length - (hasEnd ? 0 : 1), () => element("div"))
    const ends = endsOf(schedule, total)
    blocks.forEach((block, index) => this.drawBlock(block, index, ends[index]))
    borders.forEach((border, index) => {
      border.style.left = `${this.layout.xOf(ends[index])}px`
      border.title = text("timeline.borderHelp")
      border.classList.toggle("artv-timeline-moving", pointer.drag?.border === index)
    })
  }

  /** Frames after the end of the video, which are not made. */
  drawEnd() {
    const { late, total } = this.timeline
    this.beyond.hidden = late >= total
    this.beyond.style.left = this.beyond.hidden ? "0" : `${this.layout.xOf(late)}px`
    if (!this.beyond.isConnected) this.row.append(this.beyond)
  }

  drawBlock(block, index, end) {
    const { timeline, layout } = this
    const { drag } = timeline.pointer
    const { start, text: words } = timeline.schedule.prompts[index]
    const isSelected = index === timeline.selected
    block.style.left = `${layout.xOf(start)}px`
    block.style.width = `${layout.xOf(end) - layout.xOf(start)}px`
    block.style.setProperty("--artv-block", colourOf(index))
    block.style.setProperty("--artv-before", colourOf(index - 1))
    block.tabIndex = isSelected ? 0 : -1
    block.setAttribute("aria-selected", isSelected)
    block.setAttribute("aria-label", timeline.describe(index))
    block.title = `${timeline.describe(index)}\n${text("timeline.keys")}`
    block.classList.toggle("artv-timeline-moving", drag?.block === index)
    block.classList.toggle("artv-timeline-late", start >= timeline.late)
    const [fade, shown] = block.children
    const frames = drag || timeline.wanted ? 0 : (timeline.spans[index]?.fade_in ?? 0)
    fade.hidden = !frames
    fade.style.width = `${layout.xOf(Math.min(start + frames, timeline.total)) - layout.xOf(start)}px`
    shown.textContent = words
    shown.hidden = layout.xOf(end) - layout.xOf(start) < LEAST_WORDS
  }

  drawFields() {
    const { schedule, selected, settings } = this.timeline
    const { start, end } = this.timeline.rangeOf(selected)
    const isLast = selected === schedule.prompts.length - 1
    this.start.disabled = !selected
    this.length.disabled = isLast && schedule.end === null
    this.length.title = this.length.disabled ? text("timeline.lastsToEnd") : text("timeline.lengthHelp")
    this.length.min = 1
    if (document.activeElement !== this.start) this.start.value = start
    if (document.activeElement !== this.length) this.length.value = end - start
    this.seconds.textContent = text("timeline.frames", {
      first: start,
      last: end - 1,
      seconds: secondsOf(end - start, settings?.fps),
    })
    const [split, merge, left, right, remove] = this.tools.children
    split.disabled = end - start < 2
    merge.disabled = right.disabled = isLast
    left.disabled = !selected
    remove.disabled = schedule.prompts.length < 2
    this.timeline.prompt.show()
  }

  /** Take the number that is being typed. */
  finish() {
    const { selected } = this.timeline
    const { start, end } = this.timeline.rangeOf(selected)
    const shown = new Map([[this.start, start], [this.length, end - start]])
    const field = [...shown.keys()].find((one) => one === document.activeElement)
    if (field && field.valueAsNumber !== shown.get(field)) field.dispatchEvent(new Event("change"))
  }

  focusBlock() {
    const block = this.row.querySelector('[aria-selected="true"]')
    block?.focus({ preventScroll: true }) // focusing would otherwise scroll the page as well
    if (!block || this.timeline.pointer.drag) return
    const { scrollLeft, clientWidth } = this.scroller
    const last = block.offsetLeft + block.offsetWidth - clientWidth
    this.scroller.scrollLeft = Math.max(last, Math.min(scrollLeft, block.offsetLeft))
  }
}

/** A number of frames in seconds, in short form. */
export function secondsOf(frames, fps) {
  return text("timeline.seconds", { seconds: fps > 0 ? Number((frames / fps).toFixed(2)) : "?" })
}

function numberField(take) {
  return element("input", { type: "number", min: 0, step: 1, onchange: ({ target }) => take(target.valueAsNumber) })
}

/** Keep the panel from dragging the node; the middle button still moves the canvas. */
function keepOwnPointer(event) {
  if (event.button === 0) event.stopPropagation()
}

/** The children of a class, as many as needed. */
function matched(parent, kind, count, make) {
  const found = [...parent.getElementsByClassName(kind)]
  found.splice(count).forEach((one) => one.remove())
  while (found.length < count) {
    const made = make()
    made.classList.add(kind)
    parent.append(made)
    found.push(made)
  }
  return found
}

function newBlock() {
  const fade = element("div", { class: "artv-timeline-fade" })
  return element("div", { role: "option" }, fade, element("div", { class: "artv-timeline-words" }))
}

function colourOf(index) {
  const hue = HUES[(index + HUES.length) % HUES.length]
  return `color-mix(in srgb, ${hue} 36%, var(--artv-back))`
}
