/** One run, from the server's messages. Its size is limited, so the page's memory does not grow with the video. */

const MAX_PICTURES = 120
const MAX_READINGS = 480

export class LiveRun {
  constructor(id) {
    this.id = id // null if nothing was made
    this.state = undefined
    this.done = this.total = 0
    this.fps = 8
    this.pace = null
    this.steering = {} // what was said and taken back; see `told_of` in nodes/steer.py
    this.cachedFor = undefined // the prompt whose result the host took from this run
    this.saidAtFirst = undefined // what was said in it before this page knew of it
    this.taken = new Map() // what was said and is in a timeline, by the timeline's place
    this.untakeable = new Map() // what was said and was refused, by the timeline's place
    this.refusal = undefined // why the host queued no other run meanwhile
    this.clear()
  }

  clear() {
    this.pictures = new Thinned(MAX_PICTURES)
    this.readings = new Thinned(MAX_READINGS)
  }

  /** Process a message from `nodes/live.py`. */
  take(message) {
    const { node, workflow, state, problem, total, known, blind, done, fps, width, height, videos } = message
    Object.assign(this, { node, workflow, state, problem, total, known, blind, done, fps, width, height, videos })
    this.prompt = message.prompt_id
    this.sizeAdvice = message.size_advice // null if the size is near the checkpoint's
    this.pace = message.seconds_per_frame
    this.left = message.seconds_left
    this.steering = message.steering ?? {}
    this.saidAtFirst ??= this.steering.said ?? []
    this.unknown = message.unknown // words that the model does not know, or null
    if (message.whole) this.clear() // it has all that there is
    for (const picture of message.pictures) this.pictures.add(unpacked(picture))
    for (const [index, shift, sharpness, copied] of message.readings)
      this.readings.add({ index, shift, sharpness, copied })
  }

  /** The state that the panel shows: "cached" if the host took the result from its cache. */
  get shownState() {
    return this.cachedFor ? "cached" : this.state
  }

  /** The latest picture that is not after a frame; else the first one. */
  at(frame) {
    return this.pictures.at(frame)
  }

  /** The latest reading of drift that is not after a frame. */
  readingAt(frame) {
    return this.readings.at(frame)
  }
}

/**
 * At most `limit` items in order of their index, one for each index, always with the first and the last, and about
 * evenly spaced. When an item must go, it is the one whose neighbours are closest to each other.
 */
class Thinned {
  constructor(limit) {
    this.limit = limit
    this.items = []
  }

  /** Add an item; it replaces an earlier one with the same index. */
  add(item) {
    const { items } = this
    const place = this.after(item.index)
    const replaced = items[place - 1]?.index === item.index ? 1 : 0
    items.splice(place - replaced, replaced, item)
    if (items.length <= this.limit) return
    let chosen = 1
    for (let place = 2; place < items.length - 1; place++) {
      if (gap(items, place) < gap(items, chosen)) chosen = place
    }
    items.splice(chosen, 1)
  }

  /** The last item that is not after an index; else the first one. */
  at(index) {
    return this.items[Math.max(0, this.after(index) - 1)]
  }

  /** The position of the first item after an index. */
  after(index) {
    let [low, high] = [0, this.items.length]
    while (low < high) {
      const middle = (low + high) >> 1
      if (this.items[middle].index <= index) low = middle + 1
      else high = middle
    }
    return low
  }
}

function gap(items, place) {
  return items[place + 1].index - items[place - 1].index
}

function unpacked({ index, jpeg, mask }) {
  return {
    index,
    jpeg: jpeg && new Blob([bytes(jpeg)], { type: "image/jpeg" }),
    mask: mask && { width: mask.width, height: mask.height, values: bytes(mask.values) },
  }
}

function bytes(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0))
}
