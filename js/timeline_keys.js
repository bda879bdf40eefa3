/** The keys of a timeline. Has no effect when loaded alone. */

/** Keep keys that are shortcuts of the page, such as the one that removes the node, inside the panel. */
export function keyDownAnywhere(timeline, event) {
  const isField = event.target.matches("input, textarea")
  if (event.key === "Escape" && isField) {
    timeline.prompt.finish()
    timeline.view.focusBlock()
  }
  const isTyping = isField && !event.ctrlKey && !event.metaKey
  if (isTyping || ["Delete", "Backspace"].includes(event.key)) event.stopPropagation()
}

/** A key pressed on a block. */
export function keyDown(timeline, event) {
  const isUndoing = (event.ctrlKey || event.metaKey) && ["y", "z"].includes(event.key.toLowerCase())
  if (isUndoing) {
    timeline.undoneAt = performance.now() // the page removes the focus together with the node
    event.preventDefault() // the browser would also undo what was typed last, in whatever box that was
  }
  const action = actionOf(timeline, event)
  if (!action || timeline.pointer.drag) return
  event.preventDefault()
  event.stopPropagation()
  action()
}

function actionOf(timeline, event) {
  const { actions, selected } = timeline
  const control = event.ctrlKey || event.metaKey
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key]
  if (by && control) return () => actions.move(by)
  if (by && (event.shiftKey || event.altKey)) return () => actions.resize(by)
  if (by) return () => timeline.select(selected + by)
  if (control || event.altKey) return null
  return {
    home: () => timeline.select(0),
    end: () => timeline.select(Infinity),
    s: () => actions.splitAt(selected),
    m: () => actions.merge(),
    delete: () => actions.remove(),
    backspace: () => actions.remove(),
    enter: () => timeline.prompt.edit(),
    f2: () => timeline.prompt.edit(),
  }[event.key.toLowerCase()]
}
