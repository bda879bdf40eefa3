/**
 * What hands can do to a schedule, and how it is laid out: plain values in, new ones out. Loaded by itself it does
 * nothing.
 *
 * A schedule is `{prompts: [{source, start, text}], end}`: as the server's `wanted`. `end` is where the last prompt
 * ends if the text says so, else null; it then lasts to `total`, the end of the video as far as that is known.
 */

/** The frame after each prompt's last. */
export function endsOf({ prompts, end }, total) {
  return prompts.map((_, index) => prompts[index + 1]?.start ?? end ?? total)
}

/** The border between a prompt and the next one, or the written end of the last, put to a frame as near as can be. */
export function withEnd(schedule, index, frame, total, limit = Infinity) {
  const { prompts, end } = schedule
  const first = prompts[index].start + 1
  if (index < prompts.length - 1) {
    const last = endsOf(schedule, total)[index + 1] - 1
    return withStarts(schedule, (start, one) => (one === index + 1 ? Math.max(first, Math.min(frame, last)) : start))
  }
  return end === null ? schedule : { prompts, end: Math.max(first, Math.min(frame, limit)) }
}

/** A prompt with a new length in frames; those after it move along and keep their lengths. */
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

/** A prompt divided in two of the same text at a frame within it; null where it is too short. */
export function split(schedule, index, frame, total) {
  const { prompts, end } = schedule
  const { start, text } = prompts[index]
  const last = endsOf(schedule, total)[index] - 1
  if (last <= start) return null
  const second = { source: null, start: Math.max(start + 1, Math.min(frame, last)), text }
  return { prompts: spliced(prompts, index + 1, 0, second), end }
}

/** A prompt and the next one made one; both texts stay, unless they are the same. */
export function merge({ prompts, end }, index) {
  const [first, second] = prompts.slice(index, index + 2)
  if (!second) return null
  const text = first.text === second.text ? first.text : `${first.text}, ${second.text}`
  return { prompts: spliced(prompts, index, 2, { ...first, text }), end }
}

/** Without a prompt; its frames go to the one before, or else the one after. */
export function without({ prompts, end }, index) {
  if (prompts.length < 2) return null
  const left = spliced(prompts, index, 1)
  return { prompts: left.map((prompt, one) => (one ? prompt : { ...prompt, start: 0 })), end }
}

/** A prompt put at another place; lengths travel with their prompts. */
export function moved(schedule, from, to, total) {
  const { prompts, end } = schedule
  if (to < 0 || to >= prompts.length) return null
  const ends = endsOf(schedule, total)
  const pieces = prompts.map((prompt, index) => ({ prompt, length: ends[index] - prompt.start }))
  const ordered = spliced(spliced(pieces, from, 1), to, 0, pieces[from])
  let start = 0
  return { prompts: ordered.map(({ prompt, length }) => ({ ...prompt, start: (start += length) - length })), end }
}

/** One more prompt after the last, of the same text, for `frames` frames if there is room. */
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

/** With another text for one prompt. */
export function withText({ prompts, end }, index, text) {
  return { prompts: spliced(prompts, index, 1, { ...prompts[index], text }), end }
}

/**
 * Where frames lie on a line `width` long: each prompt as wide as it lasts, but none less than `least`. Gives
 * `xOf(frame)`, its inverse `frameAt(x)` and the whole `width`, which is more than asked for where the prompts have no
 * room.
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

/** The width shared out by length, after those too short for their share have got the least. */
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

/** Piecewise linear: `from` ascends. */
function between(value, from, to) {
  let index = 1
  while (index < from.length - 1 && value > from[index]) index++
  const [a, b, x, y] = [from[index - 1], from[index], to[index - 1], to[index]]
  const part = b > a ? Math.max(0, Math.min(1, (value - a) / (b - a))) : 0
  return x + part * (y - x)
}

/** Frames to label, first those where prompts start, so that labels stand at least `apart` from one another. */
export function ticks(starts, total, layout, apart) {
  const step = niceStep((total * apart) / layout.width)
  const count = Math.ceil(total / step)
  const round = Array.from({ length: count }, (_, index) => index * step)
  const found = []
  for (const frame of [...starts, ...round]) {
    const x = layout.xOf(frame)
    if (found.every((tick) => Math.abs(tick.x - x) >= apart)) found.push({ frame, x })
  }
  return found
}

function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(Math.max(least, 1)))
  return Math.max(1, [1, 2, 5, 10].map((one) => one * power).find((one) => one >= least))
}

/** Whether two schedules say the same, wherever it came from. */
export function alike(one, other) {
  const said = ({ prompts, end }) => [prompts.map(({ start, text }) => [start, text]), end]
  return same(said(one), said(other))
}

/** Whether two plain values are the same. */
export function same(one, other) {
  return JSON.stringify(one) === JSON.stringify(other)
}
