/** The field of a timeline in which the selected prompt is written. Has no effect when loaded alone. */

import { element, text } from "./page.js"
import { withText } from "./timeline_edits.js"

const TYPING_MILLISECONDS = 300

export class PromptField {
  constructor(timeline) {
    this.timeline = timeline
    this.refused = null // text that the server rejected
    this.typing = null // runs until the user stops typing
    this.root = element("textarea", {
      class: "artv-timeline-prompt",
      rows: 2,
      oninput: () => this.typed(),
      onblur: () => this.leave(),
    })
  }

  typed() {
    this.stopWaiting()
    this.typing = setTimeout(() => this.finish(), TYPING_MILLISECONDS)
  }

  stopWaiting() {
    clearTimeout(this.typing)
  }

  /** Put what was typed into the text. */
  finish() {
    this.stopWaiting()
    const { timeline, root } = this
    const written = root.value.trim()
    if (timeline.view.isLocked || !timeline.schedule || root.dataset.shown === root.value) return
    if (!written) return timeline.notices.say(text("timeline.empty"))
    root.dataset.shown = root.value
    if (written === timeline.schedule.prompts[timeline.selected].text) return
    timeline.change(withText(timeline.schedule, timeline.selected, written))
  }

  leave() {
    this.finish()
    if (!this.root.value.trim()) this.show(true)
  }

  keepRefused() {
    this.refused = this.root.value
  }

  /** Show the selected prompt, unless the user is writing in the field. */
  show(always = false) {
    const { timeline, root } = this
    const shown = timeline.schedule.prompts[timeline.selected].text
    const { value, dataset } = root
    const isSame = dataset.index === String(timeline.selected)
    const isUnsent = document.activeElement === root && value !== dataset.shown
    if (!always && isSame && (isUnsent || value === this.refused)) return
    this.refused = null
    root.dataset.index = timeline.selected
    if (root.value.trim() !== shown || always) root.value = shown
    root.dataset.shown = root.value
  }

  /**
   * Keep what is being written with its prompt in a schedule that gets others. Returns where that prompt is, or the one
   * that takes its place.
   */
  stayIn({ prompts }) {
    const { start } = this.timeline.schedule.prompts[this.timeline.selected]
    const index = prompts.findLastIndex((prompt) => prompt.start <= start)
    this.root.dataset.index = prompts[index].start === start ? index : ""
    return index
  }

  /** Move the focus to the field. */
  edit() {
    this.root.focus()
    this.root.setSelectionRange(this.root.value.length, this.root.value.length)
  }
}
