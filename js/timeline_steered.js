/** The prompts that are said while a sampler runs become segments of the timeline, so that the video can be made again. */

import { samplersOf } from "./connections.js"
import { onRuns, runOf } from "./live_runs.js"
import { whileInGraph } from "./page.js"
import { same, steered } from "./timeline_edits.js"

/** Let a timeline take what is said in the runs of its samplers. */
export function followSteering(timeline) {
  const taken = new Map() // by the run's id, what was said and is in the timeline
  const takeAll = () => {
    for (const run of samplersOf(timeline.node).map(runOf).filter(Boolean)) take(timeline, run, taken)
  }
  whileInGraph(timeline.node, () => onRuns(takeAll))
}

/** A run that was over before this page saw it is not taken from: its timeline may have been changed since. */
function take(timeline, run, taken) {
  const said = run.steering?.said
  if (!said || (run.state !== "running" && !taken.has(run.id))) return
  const before = taken.get(run.id) ?? []
  const changed = !same(before, said)
  if (changed && !timeline.schedule) return // it is still being read
  taken.set(run.id, said)
  if (changed) timeline.change(steered(timeline.schedule, before, said))
}
