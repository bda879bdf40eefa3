/** The prompts that are said while a sampler runs become segments of the timeline, so that the video can be made again. */

import { SAMPLER, samplersOf } from "./connections.js"
import { onRuns, pathOf, runOf } from "./live_runs.js"
import { watch, whileInGraph } from "./page.js"
import { same, steered } from "./timeline_edits.js"

const timelines = new Set()

/** Let a timeline take what is said in the runs of its samplers: at once, or as soon as its text can be changed. */
export function followSteering(timeline) {
  const takeAll = () => {
    for (const run of showing(timeline).map(runOf).filter(Boolean)) take(timeline, run)
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

/**
 * Each prompt is taken once, so that what people do with it afterwards stays, also when the page makes the node again, as
 * it does to undo. What was said before this page knew of the run is not taken: the text may have been changed since.
 */
async function take(timeline, run) {
  if (timeline.sending || !timeline.canChange || !isNew(timeline, run)) return
  const { said, schedule } = run.steering
  const place = pathOf(timeline.node)
  const changed = steered(timeline.schedule, takenBefore(run, place), said, JSON.parse(`{${schedule ?? ""}}`))
  const outcome = await timeline.change(changed, timeline.prompt.stayIn(changed))
  if (outcome === "changed") run.taken.set(place, said)
  if (outcome === "refused") run.untakeable.set(place, said)
}

/** Whether something was said, or taken back, that a timeline has not taken and can take. */
function isNew(timeline, run) {
  const place = pathOf(timeline.node)
  const { said } = run.steering
  return !!said && ![takenBefore(run, place), run.untakeable.get(place)].some((one) => same(one, said))
}

function takenBefore(run, place) {
  return run.taken.get(place) ?? run.saidAtFirst
}

/** The prompts of a sampler's run as text, if some were said in it and no timeline has them; else "". */
export function untaken(sampler) {
  const run = runOf(sampler)
  const { said = [], schedule } = run?.steering ?? {}
  const isTaken = () => [...timelines].some((one) => showing(one).includes(sampler) && has(one, run))
  return said.length && !isTaken() ? schedule : ""
}

/** Whether a timeline has what was said in a run, or will have it in a moment. */
function has(timeline, run) {
  if (!timeline.question()) return false
  const { said } = run.steering
  if (same(run.taken.get(pathOf(timeline.node)), said)) return true
  if (timeline.isUnreadable) return false
  if (!timeline.base || isNew(timeline, run)) return true // its text is being read or changed
  return said.every(([start, text]) => timeline.schedule.prompts.some((one) => one.start === start && one.text === text))
}

/** The samplers that show what a timeline says. What one is not to show is not changed while it runs. */
function showing(timeline) {
  return samplersOf(timeline.node, SAMPLER, "positive")
}
