/** The prompts that are said while a sampler runs become segments of the timeline, so that the video can be made again. */

import { SAMPLER, samplersOf } from "./connections.js"
import { onRuns, runOf } from "./live_runs.js"
import { watch, whileInGraph } from "./page.js"
import { same, steered } from "./timeline_edits.js"

const timelines = new Set()

/** Let a timeline take what is said in the runs of its samplers: at once, or as soon as its text can be changed. */
export function followSteering(timeline) {
  const written = new Map() // by the run's id, what was said and is in the timeline
  const takeAll = () => {
    for (const run of showing(timeline).map(runOf).filter(Boolean)) take(timeline, run, written)
  }
  watch(timeline.node, () => timeline.base, takeAll)
  whileInGraph(timeline.node, () => {
    timelines.add(timeline)
    const stop = onRuns(takeAll)
    return () => {
      timelines.delete(timeline)
      stop()
    }
  })
}

/** A run that was over before this page saw it is not taken from: its timeline may have been changed since. */
async function take(timeline, run, written) {
  if (run.state === "running" && !written.has(run.id)) written.set(run.id, [])
  const before = written.get(run.id)
  const said = run.steering?.said
  if (!before || !said || same(before, said) || timeline.isSending || !timeline.canChange) return
  const changed = steered(timeline.schedule, before, said)
  const isSettled = await timeline.change(changed, timeline.prompt.stayIn(changed))
  if (isSettled) written.set(run.id, said)
}

/** The prompts of a sampler's run as text, if some were said in it and no timeline can take them; else "". */
export function untaken(sampler) {
  const { said = [], schedule } = runOf(sampler)?.steering ?? {}
  const isTaken = () => [...timelines].some((one) => one.question() && showing(one).includes(sampler))
  return said.length && !isTaken() ? schedule : ""
}

/** The samplers that show what a timeline says. What one is not to show is not changed while it runs. */
function showing(timeline) {
  return samplersOf(timeline.node, SAMPLER, "positive")
}
