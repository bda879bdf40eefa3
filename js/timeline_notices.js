/**
 * The messages of a timeline: hints, why nothing can be edited, and where the text has an error. Has no effect when
 * loaded alone.
 */

import { element, text, widgetOf } from "./page.js"

const HINT_MILLISECONDS = 5000
const EXCERPT_BEFORE = 16 // characters
const EXCERPT_AFTER = 30

export class Notices {
  constructor(timeline) {
    this.timeline = timeline
    this.notice = element("div", { class: "artv-timeline-notice", role: "alert", hidden: "" })
    this.hint = element("div", { class: "artv-timeline-hint", "aria-hidden": "true" })
    this.cautions = element("div", { class: "artv-timeline-cautions", role: "status", hidden: "" })
    this.spoken = element("div", { class: "artv-timeline-spoken", role: "status" })
    this.timer = null // runs while a message is shown
    this.cautioned = "" // what `caution` shows
    this.marked = null // the text box that is marked as faulty
  }

  // Hints

  /** Show a message for a while, and announce it to screen readers. */
  say(line) {
    this.hint.textContent = this.hint.title = this.spoken.textContent = line
    clearTimeout(this.timer)
    this.timer = setTimeout(() => this.showKeys(), HINT_MILLISECONDS)
  }

  /** Show a message until the next one; screen readers do not announce it. */
  show(line) {
    this.hint.textContent = line
  }

  /** Show the keys, unless there is another message. */
  rest() {
    if (!this.timer) this.showKeys()
  }

  showKeys() {
    this.timer = null
    this.hint.textContent = this.hint.title = this.cautions.hidden ? text("timeline.keys") : ""
  }

  // Lines that stay while there is a reason

  /** Show lines about the prompts, each with an optional class; they take the place of the keys. `help` is shown on hover. */
  caution(lines, help = "") {
    const told = JSON.stringify([lines, help])
    if (this.cautioned === told) return
    this.cautioned = told
    this.cautions.replaceChildren(...lines.map(([line, kind]) => element("div", { class: kind }, line)))
    this.cautions.hidden = !lines.length
    this.cautions.title = help
    this.rest()
  }

  // Messages that replace the timeline

  /** Show why nothing can be edited. */
  tell(...parts) {
    this.hint.hidden = true
    this.notice.replaceChildren(...parts)
    this.notice.hidden = false
    this.markTextBox(false)
  }

  /** Show an error in the text, and where it is. */
  tellError({ message, line, column }, faulty) {
    if (!line) return this.timeline.tell(message)
    const place = text("timeline.place", { line, column, message })
    const excerpt = excerptOf(faulty, line, column)
    const goThere = () => this.showPlace(line, column)
    const title = text("timeline.goThere")
    const attributes = { type: "button", class: "artv-timeline-excerpt", title, onclick: goThere }
    const button = element("button", attributes, excerpt.before, element("mark", {}, excerpt.at), excerpt.after)
    this.timeline.tell(place, button)
    this.markTextBox(true)
  }

  /** Remove the error. */
  clear() {
    this.notice.hidden = true
    this.hint.hidden = false
    this.markTextBox(false)
  }

  /** Clean up after the node was removed. */
  stop() {
    clearTimeout(this.timer)
    this.markTextBox(false)
  }

  // The text box of the node

  /** The box in which the text is typed, if it can be reached: Nodes 2.0 has its own box. */
  textBox() {
    const { node, view } = this.timeline
    const widget = widgetOf(node, "text")
    const own = widget?.element ?? widget?.inputEl
    if (own?.isConnected) return own
    const around = view.root.closest(`[data-node-id="${node.id}"]`)
    const boxes = [...(around?.querySelectorAll("textarea") ?? [])]
    return boxes.find((box) => !view.root.contains(box) && box.value === widget?.value)
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
}

/** The part of a text around an error; columns count characters. */
function excerptOf(faulty, line, column) {
  const characters = [...(faulty.split(/\r\n|\r|\n/)[line - 1] ?? "")]
  const [from, to] = [Math.max(0, column - 1 - EXCERPT_BEFORE), column + EXCERPT_AFTER]
  return {
    before: (from ? "…" : "") + characters.slice(from, column - 1).join(""),
    at: characters[column - 1] ?? " ",
    after: characters.slice(column, to).join("") + (to < characters.length ? "…" : ""),
  }
}
