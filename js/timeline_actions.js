/** What a button, a key or a field can do to the prompts of a timeline. Has no effect when loaded alone. */

import { text } from "./page.js"
import * as edits from "./timeline_edits.js"

export class Actions {
  constructor(timeline) {
    this.timeline = timeline
  }

  splitAt(index, frame) {
    const { schedule, total } = this.timeline
    const { start, end } = this.timeline.rangeOf(index)
    const changed = edits.split(schedule, index, frame ?? Math.round((start + end) / 2), total)
    if (!changed) return this.say(text("timeline.tooShort"))
    const told = text("timeline.wasSplit", { frame: changed.prompts[index + 1].start })
    this.timeline.change(changed, index + 1, told)
  }

  merge() {
    const { schedule, selected } = this.timeline
    const changed = edits.merge(schedule, selected)
    if (!changed) return this.say(text("timeline.noNext"))
    this.timeline.change(changed, selected, text("timeline.wasMerged"))
  }

  remove() {
    const { schedule, selected } = this.timeline
    const changed = edits.without(schedule, selected)
    if (!changed) return this.say(text("timeline.onlyOne"))
    const next = Math.min(selected, changed.prompts.length - 1)
    this.timeline.change(changed, next, text("timeline.wasRemoved", { number: selected + 1 }))
  }

  move(by) {
    const { schedule, selected, total } = this.timeline
    const to = selected + by
    const changed = edits.moved(schedule, selected, to, total)
    if (!changed) return this.say(text("timeline.noFurther"))
    this.timeline.change(changed, to, text("timeline.wasMoved", { number: to + 1, count: changed.prompts.length }))
  }

  add() {
    const { schedule, segmentFrames, total } = this.timeline
    const changed = edits.extended(schedule, segmentFrames, total, this.timeline.videoFrames() || Infinity)
    if (!changed) return this.say(text("timeline.tooShort"))
    this.timeline.change(changed, changed.prompts.length - 1, text("timeline.wasAdded"))
    this.timeline.prompt.root.focus()
    this.timeline.prompt.root.select()
  }

  resize(by) {
    const { schedule, selected, total, limit } = this.timeline
    const { end } = this.timeline.rangeOf(selected)
    this.setEnd(edits.withEnd(schedule, selected, end + by, total, limit))
  }

  setEnd(changed) {
    const { schedule, selected } = this.timeline
    const isOpen = selected === schedule.prompts.length - 1 && schedule.end === null
    if (isOpen) return this.say(text("timeline.lastsToEnd"))
    if (edits.same(changed, schedule)) return this.say(text("timeline.noFurther"))
    this.timeline.change(changed)
    this.say(this.timeline.describe(selected))
  }

  setStart(frame) {
    const { schedule, selected, total } = this.timeline
    if (!selected || !Number.isInteger(frame)) return this.timeline.draw()
    this.timeline.change(edits.withEnd(schedule, selected - 1, frame, total))
  }

  setLength(length) {
    const { schedule, selected, total, limit } = this.timeline
    if (!Number.isInteger(length)) return this.timeline.draw()
    this.timeline.change(edits.withLength(schedule, selected, length, total, limit))
  }

  say(line) {
    this.timeline.notices.say(line)
  }
}
