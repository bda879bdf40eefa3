/**
 * Dragging borders and blocks of a timeline. The canvas scales its content, so positions are computed from what is
 * really on the screen. Has no effect when loaded alone.
 */

import { endsOf, moved, same, withEnd } from "./timeline_edits.js"

const DRAG_BEGINS = 4 // pixels

export class Pointer {
  constructor(timeline) {
    this.timeline = timeline
    this.drag = null // the state when the pointer went down, and what it moves
    this.picked = -1 // the block last pressed
  }

  placeOf(event) {
    const { row, layout } = this.timeline.view
    const shown = row.getBoundingClientRect()
    return ((event.clientX - shown.left) * layout.width) / shown.width
  }

  down(event) {
    const { timeline } = this
    const { row, layout } = timeline.view
    if (event.button !== 0 || this.drag || !layout) return
    const indexOf = (kind) => [...row.querySelectorAll(kind)].indexOf(event.target.closest(kind))
    const border = indexOf(".artv-timeline-border")
    const block = indexOf(".artv-timeline-block")
    if (border < 0 && block < 0) return
    event.preventDefault()
    this.picked = block
    timeline.select(Math.max(border, block))
    const { schedule, total, selected } = timeline
    const from = { schedule, layout: timeline.view.layout, total, selected, x: event.clientX, pointer: event.pointerId }
    this.drag = { ...from, border, block: -1, isMoving: border >= 0 }
    row.setPointerCapture(event.pointerId)
    window.addEventListener("keydown", this.escape, true)
    timeline.draw()
  }

  move(event) {
    const { drag } = this
    if (!drag || event.pointerId !== drag.pointer) return
    if (!drag.isMoving && Math.abs(event.clientX - drag.x) < DRAG_BEGINS) return
    drag.isMoving = true
    const x = (this.placeOf(event) * drag.layout.width) / this.timeline.view.layout.width
    if (drag.border >= 0) this.dragBorder(x)
    else this.dragBlock(x)
    this.timeline.draw()
  }

  dragBorder(x) {
    const { schedule, border, layout, total } = this.drag
    const frame = Math.round(layout.frameAt(x))
    this.timeline.schedule = withEnd(schedule, border, frame, total, this.timeline.limit)
    this.timeline.notices.show(this.timeline.describe(border))
  }

  /** Put the block after those whose middles the pointer has passed. */
  dragBlock(x) {
    const { schedule, selected: picked, layout, total } = this.drag
    const ends = endsOf(schedule, total)
    const middles = schedule.prompts.map(({ start }, index) => (layout.xOf(start) + layout.xOf(ends[index])) / 2)
    const to = middles.filter((middle, index) => index !== picked && middle < x).length
    this.timeline.schedule = moved(schedule, picked, to, total)
    this.timeline.selected = this.drag.block = to
  }

  up(event) {
    const { timeline } = this
    if (!this.drag || event.pointerId !== this.drag.pointer) return
    const { schedule, selected } = timeline
    const before = this.end()
    if (same(schedule, before.schedule)) return timeline.draw()
    timeline.change(schedule, selected, timeline.describe(selected))
    timeline.view.focusBlock()
  }

  cancel() {
    if (this.drag) this.end()
    this.timeline.draw()
  }

  /** Restore the state before the drag. */
  end() {
    const { drag, timeline } = this
    this.drag = null
    timeline.schedule = drag.schedule
    timeline.selected = drag.selected
    window.removeEventListener("keydown", this.escape, true)
    if (timeline.view.row.hasPointerCapture(drag.pointer)) timeline.view.row.releasePointerCapture(drag.pointer)
    timeline.notices.rest()
    return drag
  }

  escape = (event) => {
    if (event.key !== "Escape") return
    event.preventDefault()
    event.stopImmediatePropagation()
    this.cancel()
  }

  doubleClick(event) {
    event.preventDefault()
    const { timeline, picked } = this
    if (picked < 0) return
    timeline.actions.splitAt(timeline.selected, Math.round(timeline.view.layout.frameAt(this.placeOf(event))))
  }
}
