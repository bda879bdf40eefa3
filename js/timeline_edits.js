/**
 * Changes of a schedule, and its layout: functions from plain values to new ones. Has no effect when loaded alone.
 *
 * A schedule is `{prompts: [{source, start, text}], end}`, like the server's `wanted`. `end` is where the last prompt
 * ends if the text says so, else null. The last prompt then lasts to `total`, the end of the video if that is known.
 */

/** The frame after the last frame of each prompt. */
export function endsOf({ prompts, end }, total) {
  return prompts.map((_, index) => prompts[index + 1]?.start ?? end ?? total)
}

/**
 * Move the border between a prompt and the next one, or the explicit end of the last one, as close to a frame as
 * possible.
 */
export function withEnd(schedule, index, frame, total, limit = Infinity) {
  const { prompts, end } = schedule
  const first = prompts[index].start + 1
  if (index < prompts.length - 1) {
    const last = endsOf(schedule, total)[index + 1] - 1
    return withStarts(schedule, (start, one) => (one === index + 1 ? Math.max(first, Math.min(frame, last)) : start))
  }
  return end === null ? schedule : { prompts, end: Math.max(first, Math.min(frame, limit)) }
}

/** Let a prompt last this many frames. Later prompts move along and keep their lengths. */
export function withLength(schedule, index, length, total, limit = Infinity) {
  const { prompts, end } = schedule
  if (index === prompts.length - 1) return withEnd(schedule, index, prompts[index].start + length, total, limit)
  const room = limit - (end ?? prompts.at(-1).start + 1)
  const by = Math.min(Math.max(1, length) - (prompts[index + 1].start - prompts[index].start), room)
  return {
    prompts: withStarts(schedule, (start, one) => (one > index ? start + by : start)).prompts,
    end: end === null ? null : end + by,
  }
}

function withStarts({ prompts, end }, change) {
  return { prompts: prompts.map((prompt, index) => ({ ...prompt, start: change(prompt.start, index) })), end }
}

/** Split a prompt at a frame inside it into two with the same text; null if it is too short. */
export function split(schedule, index, frame, total) {
  const { prompts, end } = schedule
  const { start, text } = prompts[index]
  const last = endsOf(schedule, total)[index] - 1
  if (last <= start) return null
  const second = { source: null, start: Math.max(start + 1, Math.min(frame, last)), text }
  return { prompts: spliced(prompts, index + 1, 0, second), end }
}

/** Join a prompt and the next one. Both texts are kept, unless they are the same. */
export function merge({ prompts, end }, index) {
  const [first, second] = prompts.slice(index, index + 2)
  if (!second) return null
  const text = first.text === second.text ? first.text : `${first.text}, ${second.text}`
  return { prompts: spliced(prompts, index, 2, { ...first, text }), end }
}

/** Remove a prompt. Its frames go to the one before, or else to the one after. */
export function without({ prompts, end }, index) {
  if (prompts.length < 2) return null
  const left = spliced(prompts, index, 1)
  return { prompts: left.map((prompt, one) => (one ? prompt : { ...prompt, start: 0 })), end }
}

/** Move a prompt to another position. Prompts keep their lengths. */
export function moved(schedule, from, to, total) {
  const { prompts, end } = schedule
  if (to < 0 || to >= prompts.length) return null
  const ends = endsOf(schedule, total)
  const pieces = prompts.map((prompt, index) => ({ prompt, length: ends[index] - prompt.start }))
  const ordered = spliced(spliced(pieces, from, 1), to, 0, pieces[from])
  let start = 0
  return { prompts: ordered.map(({ prompt, length }) => ({ ...prompt, start: (start += length) - length })), end }
}

/** Add a prompt after the last one, with the same text, for `frames` frames if there is room. */
export function extended(schedule, frames, total, limit = Infinity) {
  const { prompts, end } = schedule
  const last = prompts.at(-1)
  const start = end ?? last.start + frames
  const middle = last.start + Math.ceil((total - last.start) / 2)
  if (start >= limit) return split(schedule, prompts.length - 1, middle, total)
  const added = { source: null, start, text: last.text }
  return { prompts: [...prompts, added], end: end === null ? null : Math.min(end + frames, limit) }
}

function spliced(list, start, count, ...added) {
  const copy = [...list]
  copy.splice(start, count, ...added)
  return copy
}

/** Change the text of one prompt. */
export function withText({ prompts, end }, index, text) {
  return { prompts: spliced(prompts, index, 1, { ...prompts[index], text }), end }
}

/**
 * The positions of frames on a line of `width`: each prompt's width follows its length, but is at least `least`.
 * Returns `xOf(frame)`, its inverse `frameAt(x)` and the total `width`, which is larger than requested if the prompts
 * need more room.
 */
export function layOut(starts, total, width, least) {
  const edges = [...starts, total]
  const lengths = starts.map((start, index) => Math.max(edges[index + 1] - start, 0.001))
  const widths = widthsOf(lengths, Math.max(width, least * lengths.length), least)
  const places = [0]
  for (const one of widths) places.push(places.at(-1) + one)
  return {
    width: places.at(-1),
    xOf: (frame) => between(frame, edges, places),
    frameAt: (x) => between(x, places, edges),
  }
}

/** The width divided by length, after prompts that are too short for their share have been given the least width. */
function widthsOf(lengths, width, least) {
  const small = new Set()
  for (;;) {
    const left = lengths.reduce((sum, length, index) => (small.has(index) ? sum : sum + length), 0)
    const unit = (width - small.size * least) / left
    const more = lengths.flatMap((length, index) => (!small.has(index) && length * unit < least ? [index] : []))
    if (!more.length) return lengths.map((length, index) => (small.has(index) ? least : length * unit))
    more.forEach((index) => small.add(index))
  }
}

/** Piecewise linear interpolation; `from` must ascend. */
function between(value, from, to) {
  let index = 1
  while (index < from.length - 1 && value > from[index]) index++
  const [a, b, x, y] = [from[index - 1], from[index], to[index - 1], to[index]]
  const part = b > a ? Math.max(0, Math.min(1, (value - a) / (b - a))) : 0
  return x + part * (y - x)
}

/**
 * Frames to label, starting with those where prompts start, so that labels that are `wide` do not overlap. A label is to
 * the right of its frame, or to the left (`isLeft`) if it would not fit there.
 */
export function ticks(starts, total, layout, wide) {
  const step = niceStep((total * wide) / layout.width)
  const count = Math.ceil(total / step)
  const round = Array.from({ length: count }, (_, index) => index * step)
  const found = []
  for (const frame of [...starts, ...round]) {
    const x = layout.xOf(frame)
    const isLeft = x + wide > layout.width && x >= wide
    const from = isLeft ? x - wide : x
    if (found.every((tick) => Math.abs(tick.from - from) >= wide)) found.push({ frame, x, from, isLeft })
  }
  return found
}

function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(Math.max(least, 1)))
  return Math.max(1, [1, 2, 5, 10].map((one) => one * power).find((one) => one >= least))
}

/** Whether two schedules have the same content, whatever their source. */
export function alike(one, other) {
  const said = ({ prompts, end }) => [prompts.map(({ start, text }) => [start, text]), end]
  return same(said(one), said(other))
}

/** Whether two plain values are the same. */
export function same(one, other) {
  return JSON.stringify(one) === JSON.stringify(other)
}

/**
 * Add the prompts, [frame, text] each, that were `said` and not `before`, and take out those that were said before and are
 * not said any more. A prompt that starts at such a frame gets the new text; once that is taken out, it gets its text in
 * the schedule that the run goes on with: `going`, by frame.
 */
export function steered({ prompts, end }, before, said, going) {
  const missing = (from, other) => from.filter((one) => !other.some((it) => same(one, it)))
  const gone = missing(before, said)
  const kept = new Map(prompts.map((prompt) => [prompt.start, prompt]))
  for (const [start, text] of gone) {
    const prompt = kept.get(start)
    if (prompt?.text !== text) continue // it was changed since
    if (start in going) kept.set(start, { ...prompt, text: going[start] })
    else if (prompt !== prompts[0]) kept.delete(start)
  }
  for (const [start, text] of missing(said, before)) kept.set(start, { source: null, ...kept.get(start), start, text })
  const last = Math.max(...kept.keys())
  return { prompts: [...kept.values()].sort((one, other) => one.start - other.start), end: end !== null && end <= last ? null : end }
}
