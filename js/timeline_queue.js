/** What is typed or changed in a timeline just before Run is pressed belongs to that run. Has no effect when loaded alone. */

import { after, widgetOf } from "./page.js"

/** Let the page wait for the text when it queues a prompt. */
export function waitToQueue(timeline) {
  const { node } = timeline
  const widget = widgetOf(node, "text")
  let saved // what the page has saved of the node last: before it queues a prompt, the workflow that goes with it
  after(node, "onSerialize", (one) => (saved = one))
  widget.serializeValue = async () => {
    const queued = saved
    await timeline.settle()
    if (queued?.widgets_values) queued.widgets_values[node.widgets.indexOf(widget)] = widget.value
    if (queued?.widgets_values_named) queued.widgets_values_named.text = widget.value
    return widget.value
  }
}
