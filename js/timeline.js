/**
 * The timeline in the Multi-Prompt Scheduler. The text in the node is what counts: the server, which knows the syntax,
 * reads and rewrites it, and the timeline shows what the server has read.
 *
 * This file keeps the state and asks the server. Drawing is in timeline_view.js, actions of the user are in
 * timeline_actions.js, timeline_keys.js and timeline_pointer.js, and messages in timeline_notices.js.
 */

import { isAuto } from "./automatic_text.js"
import { samplersOf } from "./connections.js"
import { addPanel, app, ask, element, isWired, noteChange, setting, text, timesReconnected, watch, whileInGraph, widgetOf } from "./page.js"
import { noteScheduled, textsAround, valueOf } from "./prompt_texts.js"
import { Actions } from "./timeline_actions.js"
import { alike, endsOf, same } from "./timeline_edits.js"
import { Notices } from "./timeline_notices.js"
import { Pointer } from "./timeline_pointer.js"
import { PromptField } from "./timeline_prompt.js"
import { waitToQueue } from "./timeline_queue.js"
import { followSteering } from "./timeline_steered.js"
import { MOST_PROMPTS, secondsOf, View } from "./timeline_view.js"
import { followWords } from "./words.js"

const SCHEDULER = "ARTVMultiPromptScheduler"
const SETTINGS = ["segment_frames", "fps", "blend_frames"]
const AROUND = ["pre_text", "app_text"]
const LEAST_HEIGHT = 220
const NEW_SIZE = [420, 580]
const REFOCUS_MILLISECONDS = 3000

document.head.append(element("link", { rel: "stylesheet", href: new URL("./timeline.css", import.meta.url).href }))

/** The state of removed nodes, because undo creates all nodes again. */
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
    this.schedule = null // what is drawn: see timeline_edits.js; its sources are prompts of `this.base`
    this.base = null // the request whose reply is drawn, if that can be edited
    this.settings = null // the same request, even if it cannot be edited
    this.spans = []
    this.slips = [] // words that look like a time
    this.words = undefined // what is said of words that the model does not know
    this.total = 1
    this.late = Infinity // the first frame that is not made
    this.selected = 0
    this.asked = 0
    this.isUnreadable = false // the notice says why
    this.wanted = null // to be sent
    this.sending = null // a promise, while the server is asked to change the text
    this.undoneAt = undefined // the time of the last undo
    this.takesFocus = false // after drawing, because the node it replaces had it
    this.actions = new Actions(this)
    this.pointer = new Pointer(this)
    this.notices = new Notices(this)
    this.prompt = new PromptField(this)
    this.view = new View(this)
    addPanel(node, "artv_timeline", this.view.root, LEAST_HEIGHT)
    const read = () => [this.question() ?? this.unknown(), this.videoFrames(), this.lateFrom(), textsAround(node), timesReconnected(), setting("Comfy.Locale")]
    watch(node, read, () => this.look())
    followWords(node, () => this.texts(), (found) => {
      this.words = found
      this.caution()
    })
    followSteering(this)
    waitToQueue(this)
    whileInGraph(node, () => {
      const resizes = new ResizeObserver(() => this.draw())
      resizes.observe(this.view.scroller)
      return () => {
        resizes.disconnect()
        this.depart()
      }
    })
  }

  // State

  /** The request to the server, or null if the timeline cannot know where prompts start. Unknown settings are left out. */
  question() {
    if (this.unknown()) return null
    const asked = { text: String(widgetOf(this.node, "text")?.value ?? "") }
    for (const name of SETTINGS) asked[name] = valueOf(this.node, name)
    return { ...asked, num_frames: this.chosenFrames() }
  }

  /** The input without which there is no timeline, if another node provides it. */
  unknown() {
    if (isWired(this.node, "text")) return "text"
    return valueOf(this.node, "segment_frames") === undefined ? "segment_frames" : undefined
  }

  /** The video's length as it is set in this node; 0 for "auto", and if it is not known. */
  chosenFrames() {
    const value = valueOf(this.node, "num_frames")
    return isAuto(value) ? 0 : Math.max(0, Math.round(Number(value)) || 0)
  }

  /** The video's length: from this node, else from a sampler that it feeds; 0 if neither gives one. */
  videoFrames() {
    return this.chosenFrames() || Math.max(0, ...framesOfSamplers(this.node))
  }

  /** The first frame that is not made, because a sampler's video ends before it. */
  lateFrom() {
    return Math.min(this.chosenFrames() || Infinity, ...framesOfSamplers(this.node))
  }

  /** All words that this node encodes; null if the page cannot read them. */
  texts() {
    const around = textsAround(this.node)
    const prompts = this.base && this.schedule ? this.schedule.prompts.map((prompt) => prompt.text) : null
    const texts = around && prompts ? [...prompts, ...around] : null
    noteScheduled(this.node, texts)
    return texts
  }

  get limit() {
    return this.chosenFrames() || Infinity
  }

  get segmentFrames() {
    return this.settings?.segment_frames ?? 1
  }

  totalOf({ prompts, end }) {
    const last = prompts.at(-1).start
    const room = last < this.lateFrom() ? 1 : this.segmentFrames // so that a late prompt can be read
    return Math.max(this.videoFrames() || end || last + this.segmentFrames, end ?? 0, last + room)
  }

  rangeOf(index) {
    return { start: this.schedule.prompts[index].start, end: endsOf(this.schedule, this.total)[index] }
  }

  /** A description of a prompt in words. */
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
    }) + (start >= this.late ? ` (${text("timeline.lateBlock")})` : "")
  }

  // Reading the text

  /** Ask the server to read the text. */
  async look() {
    this.view.nameParts()
    this.nameBoxes()
    const question = this.question()
    if (this.sending || (this.base && same(question, this.base) && this.schedule)) return this.draw()
    this.wanted = null
    this.prompt.stopWaiting()
    if (!question) return this.tell(this.whyUnknown())
    const asked = ++this.asked
    const answer = await ask("schedule", question).catch((error) => error)
    if (asked !== this.asked || !same(question, this.question())) return
    if (answer instanceof Error) this.tell(text("timeline.unreachable", { problem: answer.message }))
    else if (answer.error) this.notices.tellError(answer.error, question.text)
    else this.take(question, answer)
  }

  whyUnknown() {
    const name = this.unknown()
    return name === "text" ? text("timeline.wired") : text("timeline.computed", { name: widgetOf(this.node, name)?.label ?? name })
  }

  /** The boxes without a name of their own, which the classic canvas shows, have the inputs' names in the page's language. */
  nameBoxes() {
    for (const { name, label, element: box } of this.node.widgets)
      if (AROUND.includes(name) && box && label) box.placeholder = label
  }

  /** Draw what the server has read. */
  take(question, { segments, spans, slips }) {
    const prompts = segments.map(({ start, text }, source) => ({ source, start, text }))
    const schedule = { prompts, end: segments.at(-1).end }
    this.base = this.settings = question
    this.spans = spans
    this.slips = slips
    const { drag } = this.pointer
    if (drag && alike(schedule, drag.schedule)) return void (drag.schedule = schedule)
    if (drag) this.pointer.end()
    this.schedule = schedule
    this.recall()
    if (segments.length > MOST_PROMPTS)
      return this.tell(text("timeline.tooMany", { count: segments.length, most: MOST_PROMPTS }))
    this.isUnreadable = false
    this.notices.clear()
    this.view.unlock()
    this.draw()
    if (this.takesFocus) this.view.focusBlock()
    this.takesFocus = false
  }

  /** Show why nothing can be edited. */
  tell(...parts) {
    this.pointer.cancel()
    this.base = null
    this.isUnreadable = true
    this.view.lock()
    this.notices.tell(...parts)
    this.caution()
  }

  draw() {
    if (!this.schedule || this.schedule.prompts.length > MOST_PROMPTS) return
    this.selected = Math.min(this.selected, this.schedule.prompts.length - 1)
    this.total = this.pointer.drag?.total ?? this.totalOf(this.schedule)
    this.late = this.lateFrom()
    this.view.draw()
    this.caution()
  }

  /** Show what is wrong with the prompts but stops nothing, or only when the video is made. */
  caution() {
    if (!this.base) return this.notices.caution([])
    const lines = this.slips.map((slip) => [text(slip.begins ? "timeline.slip" : "timeline.slipInside", slip)])
    const index = this.schedule.prompts.findIndex(({ start }) => start >= this.late)
    const { start } = this.schedule.prompts[index] ?? {}
    if (index >= 0) lines.push([text("timeline.late", { number: index + 1, start, last: this.late - 1 }), "artv-timeline-stops"])
    if (this.words?.line) lines.push([this.words.line])
    if (textsAround(this.node)?.some((one) => one.trim())) lines.push([text("timeline.around"), "artv-timeline-note"])
    this.notices.caution(lines, this.words?.help)
  }

  select(index) {
    this.prompt.finish()
    this.selected = Math.max(0, Math.min(index, this.schedule.prompts.length - 1))
    this.draw()
    this.view.focusBlock()
  }

  // Changing the text

  get canChange() {
    return !!this.schedule && !!this.base && !this.view.isLocked
  }

  /**
   * Change the text to `schedule`. The drawing changes at once. Several changes before the reply are sent as one. Returns
   * "changed", "refused" if the server has said why not, or undefined if it may be tried again.
   */
  async change(schedule, selected = this.selected, told = "") {
    if (!schedule || !this.canChange) return
    this.schedule = schedule
    this.selected = selected
    this.wanted = schedule
    this.draw()
    if (told) this.notices.say(told)
    if (this.sending) return
    this.sending = this.send().catch((error) => void this.refuse(error))
    const outcome = await this.sending
    this.sending = null
    this.look()
    return outcome
  }

  /** Put what is being typed into the text, and wait until that and all earlier changes are there or refused. */
  async settle() {
    this.prompt.finish()
    if (this.canChange) this.view.finish()
    await this.sending
  }

  /** Returns as `change`. Throws an Error if the server could not be asked. */
  async send() {
    while (this.wanted) {
      const base = this.base
      const wanted = this.wanted
      this.wanted = null
      const answer = await ask("schedule", { ...base, wanted })
      if (!same(base, this.question())) {
        this.wanted = this.base = null // the user typed meanwhile
        return
      }
      if (this.wanted) continue
      if (answer.error) {
        this.refuse(answer.error)
        return "refused"
      }
      this.write(answer.text)
      this.take({ ...base, text: answer.text }, answer)
    }
    return "changed"
  }

  refuse({ message }) {
    this.wanted = this.base = null
    this.prompt.keepRefused()
    this.notices.say(message)
  }

  write(value) {
    const widget = widgetOf(this.node, "text")
    if (!widget || widget.value === value) return
    noteChange() // makes earlier typing a separate undo step
    widget.value = value
    if (!widget.element) widget.callback?.(value) // a widget with an element calls it itself
    app.canvas?.setDirty(true, true)
    noteChange()
  }

  // Creation and removal

  depart() {
    this.pointer.cancel()
    this.prompt.stopWaiting()
    this.notices.stop()
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

/** The lengths of the videos of the samplers that a scheduler feeds, as far as they are known. */
function framesOfSamplers(node) {
  return samplersOf(node).map((sampler) => Number(valueOf(sampler, "frames"))).filter((frames) => frames > 0)
}

function isRecent(time) {
  return time !== undefined && performance.now() - time < REFOCUS_MILLISECONDS
}
