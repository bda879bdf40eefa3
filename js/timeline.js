/**
 * On the Multi-Prompt Scheduler: its text as a timeline. The text is the truth: it is read and rewritten by the server,
 * which knows the syntax, and what is drawn here is what it read.
 */

import { addPanel, app, ask, element, isWired, noteChange, onRemoved, setting, text, watch, widgetOf } from "./page.js"
import * as edits from "./timeline_edits.js"

const SCHEDULER = "ARTVMultiPromptScheduler"
const SAMPLER = "ARTVMaskedDiffusionSampler"
const SETTINGS = ["segment_frames", "fps", "num_frames", "blend_frames"]
const LEAST_HEIGHT = 220
const NEW_SIZE = [420, 660]
const MOST_PROMPTS = 500 // drawn
const LEAST_BLOCK = 16 // pixels
const LEAST_WORDS = 32 // pixels: narrower blocks are without
const TICK_APART = 64 // pixels
const DRAG_BEGINS = 4 // pixels
const TYPING_MILLISECONDS = 300
const HINT_MILLISECONDS = 5000
const EXCERPT_BEFORE = 16 // characters
const EXCERPT_AFTER = 30
const HUES = ["#4f8fe8", "#34a58a", "#b9973f", "#a973d8", "#d2766c", "#7d9a3c"]
const REFOCUS_MILLISECONDS = 3000

document.head.append(element("link", { rel: "stylesheet", href: new URL("./timeline.css", import.meta.url).href }))

/** What was in nodes that are gone: undoing makes all nodes anew. */
const departed = new Map()

app.registerExtension({
  name: "ARTV.timeline",
  nodeCreated(node) {
    if (node.comfyClass !== SCHEDULER) return
    new Timeline(node)
    node.setSize([...NEW_SIZE])
  },
})

class Timeline {
  constructor(node) {
    this.node = node
    this.schedule = null // what is drawn: see timeline_edits.js; sources are prompts of `this.base`
    this.base = null // the question whose answer is drawn, if that can be edited
    this.settings = null // the same, also where it cannot
    this.spans = []
    this.total = 1
    this.selected = 0
    this.asked = 0
    this.wanted = null // to be sent
    this.isSending = false
    this.drag = null
    this.picked = -1 // the block last pressed
    this.build()
    addPanel(node, "artv_timeline", this.root, LEAST_HEIGHT)
    watch(node, () => [this.question(), this.videoFrames(), setting("Comfy.Locale")], () => this.look())
    onRemoved(node, () => this.depart())
    this.resizes = new ResizeObserver(() => this.draw())
    this.resizes.observe(this.scroller)
  }

  // What there is

  /** What the server is asked, or null where a wire brings the text. */
  question() {
    if (isWired(this.node, "text")) return null
    const asked = { text: String(widgetOf(this.node, "text")?.value ?? "") }
    for (const name of SETTINGS) asked[name] = widgetOf(this.node, name)?.value
    return asked
  }

  /** The video's length: of this node, else of a sampler that it feeds directly; 0 where neither says. */
  videoFrames() {
    return widgetOf(this.node, "num_frames")?.value || framesOfSampler(this.node) || 0
  }

  get limit() {
    return widgetOf(this.node, "num_frames")?.value || Infinity
  }

  get segmentFrames() {
    return this.settings?.segment_frames ?? 1
  }

  totalOf({ prompts, end }) {
    const last = prompts.at(-1).start
    return Math.max(this.videoFrames() || end || last + this.segmentFrames, end ?? 0, last + 1)
  }

  /** Ask the server what the text says. */
  async look() {
    this.nameParts()
    const question = this.question()
    if (this.isSending || (this.base && same(question, this.base) && this.schedule)) return this.draw()
    this.wanted = null
    clearTimeout(this.typing)
    if (!question) return this.tell(text("timeline.wired"))
    const asked = ++this.asked
    const answer = await ask("schedule", question).catch((error) => error)
    if (asked !== this.asked || !same(question, this.question())) return
    if (answer instanceof Error) this.tell(text("timeline.unreachable", { problem: answer.message }))
    else if (answer.error) this.tellError(answer.error, question.text)
    else this.take(question, answer)
  }

  /** Draw what the server read. */
  take(question, { segments, spans }) {
    const prompts = segments.map(({ start, text }, source) => ({ source, start, text }))
    const schedule = { prompts, end: segments.at(-1).end }
    this.base = this.settings = question
    this.spans = spans
    if (this.drag && alike(schedule, this.drag.schedule)) return void (this.drag.schedule = schedule)
    if (this.drag) this.endDrag()
    this.schedule = schedule
    this.recall()
    if (segments.length > MOST_PROMPTS)
      return this.tell(text("timeline.tooMany", { count: segments.length, most: MOST_PROMPTS }))
    this.notice.hidden = true
    this.body.hidden = false
    this.body.inert = false
    this.tools.hidden = this.hint.hidden = false
    this.markTextBox(false)
    this.draw()
    if (this.takesFocus) this.focusBlock()
    this.takesFocus = false
  }

  // Changing the text

  /** Have the text say `schedule`; what is drawn says it at once. Several before the answer become one. */
  async change(schedule, selected = this.selected, told = "") {
    if (!schedule || !this.base || this.body.inert) return
    this.schedule = schedule
    this.selected = selected
    this.wanted = schedule
    this.draw()
    if (told) this.say(told)
    if (this.isSending) return
    this.isSending = true
    await this.send().catch((error) => this.refuse(error))
    this.isSending = false
    this.look()
  }

  async send() {
    while (this.wanted) {
      const base = this.base
      const wanted = this.wanted
      this.wanted = null
      const answer = await ask("schedule", { ...base, wanted })
      if (!same(base, this.question())) return void (this.wanted = this.base = null) // typed meanwhile
      if (this.wanted) continue
      if (answer.error) throw new Error(answer.error.message)
      this.write(answer.text)
      this.take({ ...base, text: answer.text }, answer)
    }
  }

  refuse(error) {
    this.wanted = this.base = null
    this.refused = this.prompt.value
    this.say(error.message)
  }

  write(value) {
    const widget = widgetOf(this.node, "text")
    if (!widget || widget.value === value) return
    noteChange() // what was typed before is a step of its own
    widget.value = value
    if (!widget.element) widget.callback?.(value) // a widget of the page calls it itself
    app.canvas?.setDirty(true, true)
    noteChange()
  }

  // What may be done

  splitAt(index, frame) {
    const { start, end } = this.rangeOf(index)
    const schedule = edits.split(this.schedule, index, frame ?? Math.round((start + end) / 2), this.total)
    if (!schedule) return this.say(text("timeline.tooShort"))
    this.change(schedule, index + 1, text("timeline.wasSplit", { frame: schedule.prompts[index + 1].start }))
  }

  merge() {
    const schedule = edits.merge(this.schedule, this.selected)
    if (!schedule) return this.say(text("timeline.noNext"))
    this.change(schedule, this.selected, text("timeline.wasMerged"))
  }

  remove() {
    const schedule = edits.without(this.schedule, this.selected)
    if (!schedule) return this.say(text("timeline.onlyOne"))
    const selected = Math.min(this.selected, schedule.prompts.length - 1)
    this.change(schedule, selected, text("timeline.wasRemoved", { number: this.selected + 1 }))
  }

  move(by) {
    const to = this.selected + by
    const schedule = edits.moved(this.schedule, this.selected, to, this.total)
    if (!schedule) return this.say(text("timeline.noFurther"))
    this.change(schedule, to, text("timeline.wasMoved", { number: to + 1, count: schedule.prompts.length }))
  }

  add() {
    const schedule = edits.extended(this.schedule, this.segmentFrames, this.total, this.videoFrames() || Infinity)
    if (!schedule) return this.say(text("timeline.tooShort"))
    this.change(schedule, schedule.prompts.length - 1, text("timeline.wasAdded"))
    this.prompt.focus()
    this.prompt.select()
  }

  resize(by) {
    const { end } = this.rangeOf(this.selected)
    this.setEnd(edits.withEnd(this.schedule, this.selected, end + by, this.total, this.limit))
  }

  setEnd(schedule) {
    const isOpen = this.selected === this.schedule.prompts.length - 1 && this.schedule.end === null
    if (isOpen) return this.say(text("timeline.lastsToEnd"))
    if (same(schedule, this.schedule)) return this.say(text("timeline.noFurther"))
    this.change(schedule)
    this.say(this.describe(this.selected))
  }

  setStart(frame) {
    if (!this.selected || !Number.isInteger(frame)) return this.draw()
    this.change(edits.withEnd(this.schedule, this.selected - 1, frame, this.total))
  }

  setLength(length) {
    if (!Number.isInteger(length)) return this.draw()
    this.change(edits.withLength(this.schedule, this.selected, length, this.total, this.limit))
  }

  select(index) {
    this.finishTyping()
    this.selected = Math.max(0, Math.min(index, this.schedule.prompts.length - 1))
    this.draw()
    this.focusBlock()
  }

  // The prompt's own text

  typed() {
    clearTimeout(this.typing)
    this.typing = setTimeout(() => this.finishTyping(), TYPING_MILLISECONDS)
  }

  finishTyping() {
    clearTimeout(this.typing)
    const written = this.prompt.value.trim()
    if (this.body.inert || !this.schedule || this.prompt.dataset.shown === this.prompt.value) return
    if (!written) return this.say(text("timeline.empty"))
    this.prompt.dataset.shown = this.prompt.value
    if (written === this.schedule.prompts[this.selected].text) return
    this.change(edits.withText(this.schedule, this.selected, written))
  }

  leavePrompt() {
    this.finishTyping()
    if (!this.prompt.value.trim()) this.showPrompt(true)
  }

  /** The selected prompt in its field; what somebody is writing stays. */
  showPrompt(always = false) {
    const shown = this.schedule.prompts[this.selected].text
    const { value, dataset } = this.prompt
    const isSame = dataset.index === String(this.selected)
    const isUnsent = document.activeElement === this.prompt && value !== dataset.shown
    if (!always && isSame && (isUnsent || value === this.refused)) return
    this.refused = null
    this.prompt.dataset.index = this.selected
    if (this.prompt.value.trim() !== shown || always) this.prompt.value = shown
    this.prompt.dataset.shown = this.prompt.value
  }

  // Drawing

  build() {
    const button = (name, keys, action) =>
      element("button", { type: "button", "data-name": name, "aria-keyshortcuts": keys, onclick: action })
    this.notice = element("div", { class: "artv-timeline-notice", role: "alert", hidden: "" })
    this.tools = element(
      "div",
      { class: "artv-timeline-tools", role: "group" },
      button("split", "S", () => this.splitAt(this.selected)),
      button("merge", "M", () => this.merge()),
      button("left", "Control+ArrowLeft", () => this.move(-1)),
      button("right", "Control+ArrowRight", () => this.move(1)),
      button("remove", "Delete", () => this.remove()),
      button("add", null, () => this.add()),
    )
    this.tools.lastChild.classList.add("artv-timeline-add")
    this.ruler = element("div", { class: "artv-timeline-ruler", "aria-hidden": "true" })
    this.row = element("div", {
      class: "artv-timeline-row",
      role: "listbox",
      "aria-orientation": "horizontal",
      onpointerdown: (event) => this.pointerDown(event),
      onpointermove: (event) => this.pointerMove(event),
      onpointerup: (event) => this.pointerUp(event),
      onpointercancel: () => this.cancelDrag(),
      ondblclick: (event) => this.doubleClick(event),
      onkeydown: (event) => this.keyDown(event),
    })
    this.scroller = element("div", { class: "artv-timeline-scroller" }, this.ruler, this.row)
    this.prompt = element("textarea", {
      class: "artv-timeline-prompt",
      rows: 2,
      oninput: () => this.typed(),
      onblur: () => this.leavePrompt(),
    })
    this.start = this.numberField((value) => this.setStart(value))
    this.length = this.numberField((value) => this.setLength(value))
    this.startLabel = element("span")
    this.lengthLabel = element("span")
    this.seconds = element("span", { class: "artv-timeline-seconds" })
    const fields = element(
      "div",
      { class: "artv-timeline-fields" },
      element("label", {}, this.startLabel, " ", this.start),
      element("label", {}, this.lengthLabel, " ", this.length),
      this.seconds,
    )
    this.body = element("div", { class: "artv-timeline-body", inert: "" }, this.scroller, this.prompt, fields)
    this.hint = element("div", { class: "artv-timeline-hint", "aria-hidden": "true" })
    this.spoken = element("div", { class: "artv-timeline-spoken", role: "status" })
    this.root = element(
      "div",
      {
        class: "artv-timeline",
        role: "group",
        onkeydown: (event) => this.keyDownAnywhere(event),
        onpointerdown: keepOwnPointer,
        ondblclick: (event) => event.stopPropagation(),
      },
      this.tools,
      this.notice,
      this.body,
      this.hint,
      this.spoken,
    )
    this.nameParts()
  }

  numberField(take) {
    return element("input", { type: "number", min: 0, step: 1, onchange: ({ target }) => take(target.valueAsNumber) })
  }

  /** Put all names into the page's language. */
  nameParts() {
    this.root.setAttribute("aria-label", text("timeline.title"))
    this.row.setAttribute("aria-label", text("timeline.segments"))
    this.prompt.setAttribute("aria-label", text("timeline.prompt"))
    for (const button of this.tools.children) {
      button.textContent = text(`timeline.${button.dataset.name}`)
      button.title = text(`timeline.${button.dataset.name}Help`)
      button.setAttribute("aria-label", button.title)
    }
    this.tools.setAttribute("aria-label", text("timeline.tools"))
    this.startLabel.textContent = text("timeline.start")
    this.lengthLabel.textContent = text("timeline.length")
    if (!this.hintTimer) this.showKeys()
  }

  draw() {
    if (!this.schedule || this.schedule.prompts.length > MOST_PROMPTS) return
    const { prompts } = this.schedule
    this.selected = Math.min(this.selected, prompts.length - 1)
    this.total = this.drag?.total ?? this.totalOf(this.schedule)
    const starts = prompts.map((prompt) => prompt.start)
    this.layout = edits.layOut(starts, this.total, this.scroller.clientWidth || 300, LEAST_BLOCK)
    this.row.style.width = this.ruler.style.width = `${this.layout.width}px`
    const hasFocus = this.row.contains(document.activeElement)
    this.drawRuler()
    this.drawBlocks()
    this.drawFields()
    if (hasFocus) this.focusBlock()
  }

  drawRuler() {
    const fps = this.settings?.fps
    const starts = this.schedule.prompts.map((prompt) => prompt.start)
    const labels = edits.ticks(starts, this.total, this.layout, TICK_APART).map(({ frame, x }) => {
      const label = element("span", { class: "artv-timeline-tick" }, `${frame} · ${secondsOf(frame, fps)}`)
      label.style.left = `${x}px`
      return label
    })
    this.ruler.replaceChildren(...labels)
  }

  /** Elements stay where they are, so that one keeps the focus while prompts come and go. */
  drawBlocks() {
    const { prompts } = this.schedule
    const kinds = { block: "artv-timeline-block", border: "artv-timeline-border" }
    const blocks = matched(this.row, kinds.block, prompts.length, newBlock)
    const hasEnd = this.schedule.end !== null
    const borders = matched(this.row, kinds.border, prompts.length - (hasEnd ? 0 : 1), () => element("div"))
    const ends = edits.endsOf(this.schedule, this.total)
    blocks.forEach((block, index) => this.drawBlock(block, index, ends[index]))
    borders.forEach((border, index) => {
      border.style.left = `${this.layout.xOf(ends[index])}px`
      border.title = text("timeline.borderHelp")
      border.classList.toggle("artv-timeline-moving", this.drag?.border === index)
    })
  }

  drawBlock(block, index, end) {
    const { start, text: words } = this.schedule.prompts[index]
    const isSelected = index === this.selected
    block.style.left = `${this.layout.xOf(start)}px`
    block.style.width = `${this.layout.xOf(end) - this.layout.xOf(start)}px`
    block.style.setProperty("--artv-block", colourOf(index))
    block.style.setProperty("--artv-before", colourOf(index - 1))
    block.tabIndex = isSelected ? 0 : -1
    block.setAttribute("aria-selected", isSelected)
    block.setAttribute("aria-label", this.describe(index))
    block.title = `${this.describe(index)}\n${text("timeline.keys")}`
    block.classList.toggle("artv-timeline-moving", this.drag?.block === index)
    const [fade, shown] = block.children
    const frames = this.drag || this.wanted ? 0 : (this.spans[index]?.fade_in ?? 0)
    fade.hidden = !frames
    fade.style.width = `${this.layout.xOf(Math.min(start + frames, this.total)) - this.layout.xOf(start)}px`
    shown.textContent = words
    shown.hidden = this.layout.xOf(end) - this.layout.xOf(start) < LEAST_WORDS
  }

  drawFields() {
    const { start, end } = this.rangeOf(this.selected)
    const isLast = this.selected === this.schedule.prompts.length - 1
    this.start.disabled = !this.selected
    this.length.disabled = isLast && this.schedule.end === null
    this.length.title = this.length.disabled ? text("timeline.lastsToEnd") : text("timeline.lengthHelp")
    this.length.min = 1
    if (document.activeElement !== this.start) this.start.value = start
    if (document.activeElement !== this.length) this.length.value = end - start
    this.seconds.textContent = text("timeline.frames", {
      first: start,
      last: end - 1,
      seconds: secondsOf(end - start, this.settings?.fps),
    })
    const [split, merge, left, right, remove] = this.tools.children
    split.disabled = end - start < 2
    merge.disabled = right.disabled = isLast
    left.disabled = !this.selected
    remove.disabled = this.schedule.prompts.length < 2
    this.showPrompt()
  }

  rangeOf(index) {
    return { start: this.schedule.prompts[index].start, end: edits.endsOf(this.schedule, this.total)[index] }
  }

  /** A prompt in words. */
  describe(index) {
    const { start, end } = this.rangeOf(index)
    const { prompts } = this.schedule
    return text("timeline.segment", {
      number: index + 1,
      count: prompts.length,
      first: start,
      last: end - 1,
      seconds: secondsOf(end - start, this.settings?.fps),
      text: prompts[index].text,
    })
  }

  // Saying things

  /** For those who look, for a while, and for those who listen. */
  say(line) {
    this.hint.textContent = this.hint.title = this.spoken.textContent = line
    clearTimeout(this.hintTimer)
    this.hintTimer = setTimeout(() => this.showKeys(), HINT_MILLISECONDS)
  }

  showKeys() {
    this.hintTimer = null
    this.hint.textContent = this.hint.title = text("timeline.keys")
  }

  /** Why nothing can be edited. */
  tell(...parts) {
    this.cancelDrag()
    this.base = null
    this.body.hidden = !this.schedule
    this.body.inert = true
    this.tools.hidden = this.hint.hidden = true
    this.notice.replaceChildren(...parts)
    this.notice.hidden = false
    this.markTextBox(false)
  }

  /** A fault of the text, at its place. */
  tellError({ message, line, column }, faulty) {
    if (!line) return this.tell(message)
    const place = text("timeline.place", { line, column, message })
    const excerpt = excerptOf(faulty, line, column)
    const goThere = () => this.showPlace(line, column)
    const title = text("timeline.goThere")
    const attributes = { type: "button", class: "artv-timeline-excerpt", title, onclick: goThere }
    this.tell(place, element("button", attributes, excerpt.before, element("mark", {}, excerpt.at), excerpt.after))
    this.markTextBox(true)
  }

  /** The box the text is typed in, where it can be reached: Nodes 2.0 has one of its own. */
  textBox() {
    const widget = widgetOf(this.node, "text")
    const own = widget?.element ?? widget?.inputEl
    if (own?.isConnected) return own
    const around = this.root.closest(`[data-node-id="${this.node.id}"]`)
    const boxes = [...(around?.querySelectorAll("textarea") ?? [])]
    return boxes.find((box) => !this.root.contains(box) && box.value === widget?.value)
  }

  markTextBox(isFaulty) {
    this.marked?.classList.remove("artv-faulty")
    this.marked?.removeAttribute("aria-invalid")
    this.marked = isFaulty ? this.textBox() : null
    this.marked?.classList.add("artv-faulty")
    this.marked?.setAttribute("aria-invalid", "true")
  }

  showPlace(line, column) {
    const box = this.textBox()
    if (!box) return
    const lines = box.value.split("\n")
    const before = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0)
    const at = before + [...(lines[line - 1] ?? "")].slice(0, column - 1).join("").length
    box.focus()
    box.setSelectionRange(at, at)
  }

  // Keys

  /** Keys that are the page's shortcuts elsewhere, such as the one that removes the node, stay in the panel. */
  keyDownAnywhere(event) {
    const isField = event.target.matches("input, textarea")
    if (event.key === "Escape" && isField) {
      this.finishTyping()
      this.focusBlock()
    }
    const isTyping = isField && !event.ctrlKey && !event.metaKey
    if (isTyping || ["Delete", "Backspace"].includes(event.key)) event.stopPropagation()
  }

  keyDown(event) {
    const isUndoing = (event.ctrlKey || event.metaKey) && ["y", "z"].includes(event.key.toLowerCase())
    if (isUndoing) this.undoneAt = performance.now() // the page removes the focus with the node
    const action = this.keyAction(event)
    if (!action || this.drag) return
    event.preventDefault()
    event.stopPropagation()
    action()
  }

  keyAction(event) {
    const control = event.ctrlKey || event.metaKey
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key]
    if (by && control) return () => this.move(by)
    if (by && (event.shiftKey || event.altKey)) return () => this.resize(by)
    if (by) return () => this.select(this.selected + by)
    if (control || event.altKey) return null
    return {
      home: () => this.select(0),
      end: () => this.select(Infinity),
      s: () => this.splitAt(this.selected),
      m: () => this.merge(),
      delete: () => this.remove(),
      backspace: () => this.remove(),
      enter: () => this.editPrompt(),
      f2: () => this.editPrompt(),
    }[event.key.toLowerCase()]
  }

  editPrompt() {
    this.prompt.focus()
    this.prompt.setSelectionRange(this.prompt.value.length, this.prompt.value.length)
  }

  focusBlock() {
    const block = this.row.querySelector('[aria-selected="true"]')
    block?.focus({ preventScroll: true }) // which would scroll the page as well
    if (!block || this.drag) return
    const { scrollLeft, clientWidth } = this.scroller
    const last = block.offsetLeft + block.offsetWidth - clientWidth
    this.scroller.scrollLeft = Math.max(last, Math.min(scrollLeft, block.offsetLeft))
  }

  // The pointer. The canvas zooms what is in it, so places are told from what is really shown.

  placeOf(event) {
    const shown = this.row.getBoundingClientRect()
    return ((event.clientX - shown.left) * this.layout.width) / shown.width
  }

  pointerDown(event) {
    if (event.button !== 0 || this.drag || !this.layout) return
    const indexOf = (kind) => [...this.row.querySelectorAll(kind)].indexOf(event.target.closest(kind))
    const border = indexOf(".artv-timeline-border")
    const block = indexOf(".artv-timeline-block")
    if (border < 0 && block < 0) return
    event.preventDefault()
    this.picked = block
    this.select(Math.max(border, block))
    const { schedule, layout, total, selected } = this
    const from = { schedule, layout, total, selected, x: event.clientX, pointer: event.pointerId }
    this.drag = { ...from, border, block: -1, isMoving: border >= 0 }
    this.row.setPointerCapture(event.pointerId)
    window.addEventListener("keydown", this.escape, true)
    this.draw()
  }

  pointerMove(event) {
    const drag = this.drag
    if (!drag || event.pointerId !== drag.pointer) return
    if (!drag.isMoving && Math.abs(event.clientX - drag.x) < DRAG_BEGINS) return
    drag.isMoving = true
    const x = (this.placeOf(event) * drag.layout.width) / this.layout.width
    if (drag.border >= 0) this.dragBorder(x)
    else this.dragBlock(x)
    this.draw()
  }

  dragBorder(x) {
    const { schedule, border, layout, total } = this.drag
    const frame = Math.round(layout.frameAt(x))
    this.schedule = edits.withEnd(schedule, border, frame, total, this.limit)
    this.hint.textContent = this.describe(border)
  }

  /** The block stands after those whose middles the pointer has passed. */
  dragBlock(x) {
    const { schedule, selected: picked, layout, total } = this.drag
    const ends = edits.endsOf(schedule, total)
    const middles = schedule.prompts.map(({ start }, index) => (layout.xOf(start) + layout.xOf(ends[index])) / 2)
    const to = middles.filter((middle, index) => index !== picked && middle < x).length
    this.schedule = edits.moved(schedule, picked, to, total)
    this.selected = this.drag.block = to
  }

  pointerUp(event) {
    if (!this.drag || event.pointerId !== this.drag.pointer) return
    const { schedule, selected } = this
    const before = this.endDrag()
    if (same(schedule, before.schedule)) return this.draw()
    this.change(schedule, selected, this.describe(selected))
    this.focusBlock()
  }

  cancelDrag() {
    if (this.drag) this.endDrag()
    this.draw()
  }

  /** As before the drag. */
  endDrag() {
    const drag = this.drag
    this.drag = null
    this.schedule = drag.schedule
    this.selected = drag.selected
    window.removeEventListener("keydown", this.escape, true)
    if (this.row.hasPointerCapture(drag.pointer)) this.row.releasePointerCapture(drag.pointer)
    if (!this.hintTimer) this.showKeys()
    return drag
  }

  escape = (event) => {
    if (event.key !== "Escape") return
    event.preventDefault()
    event.stopImmediatePropagation()
    this.cancelDrag()
  }

  doubleClick(event) {
    event.preventDefault()
    if (this.picked >= 0) this.splitAt(this.selected, Math.round(this.layout.frameAt(this.placeOf(event))))
  }

  // Coming and going

  depart() {
    this.cancelDrag()
    clearTimeout(this.typing)
    clearTimeout(this.hintTimer)
    this.resizes.disconnect()
    this.markTextBox(false)
    departed.set(this.node.id, { selected: this.selected, isUndoing: isRecent(this.undoneAt), at: performance.now() })
  }

  recall() {
    const before = departed.get(this.node.id)
    departed.delete(this.node.id)
    if (!isRecent(before?.at)) return
    this.selected = before.selected
    this.takesFocus = before.isUndoing
  }
}

/** The frames of the sampler that a scheduler feeds directly. */
function framesOfSampler(node) {
  for (const id of node.outputs?.[0]?.links ?? []) {
    const link = node.graph?.links?.get?.(id) ?? node.graph?.links?.[id]
    const target = link && node.graph.getNodeById(link.target_id)
    if (target?.comfyClass !== SAMPLER || target.inputs?.[link.target_slot]?.name !== "positive") continue
    if (!isWired(target, "frames")) return widgetOf(target, "frames")?.value
  }
}

/** The node is not dragged by its panel; the middle button goes on moving the canvas. */
function keepOwnPointer(event) {
  if (event.button === 0) event.stopPropagation()
}

/** The children of a class, as many as wanted. */
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

/** So many frames in seconds, in short. */
function secondsOf(frames, fps) {
  return text("timeline.seconds", { seconds: fps > 0 ? Number((frames / fps).toFixed(2)) : "?" })
}

/** The piece of a text round a fault; columns count characters. */
function excerptOf(faulty, line, column) {
  const characters = [...(faulty.split(/\r\n|\r|\n/)[line - 1] ?? "")]
  const [from, to] = [Math.max(0, column - 1 - EXCERPT_BEFORE), column + EXCERPT_AFTER]
  return {
    before: (from ? "…" : "") + characters.slice(from, column - 1).join(""),
    at: characters[column - 1] ?? " ",
    after: characters.slice(column, to).join("") + (to < characters.length ? "…" : ""),
  }
}

function isRecent(time) {
  return time !== undefined && performance.now() - time < REFOCUS_MILLISECONDS
}

/** Whether two schedules say the same, wherever it came from. */
function alike(one, other) {
  const said = ({ prompts, end }) => [prompts.map(({ start, text }) => [start, text]), end]
  return same(said(one), said(other))
}

function same(one, other) {
  return JSON.stringify(one) === JSON.stringify(other)
}
