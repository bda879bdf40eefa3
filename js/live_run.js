/** One run as the server tells of it, within bounds: however long the video grows, the page's memory does not. */

const MAX_PICTURES = 120
const MAX_READINGS = 480

export class LiveRun {
  constructor(id) {
    this.id = id // null where nothing was made
    this.state = undefined
    this.done = this.total = 0
    this.fps = 8
    this.pace = null
    this.cachedFor = undefined // the prompt whose result the host took from this run
    this.pictures = new Thinned(MAX_PICTURES)
    this.readings = new Thinned(MAX_READINGS)
  }

  /** A message of `nodes/live.py`. */
  take(message) {
    const { node, workflow, state, problem, total, known, blind, done, fps, width, height, videos } = message
    Object.assign(this, { node, workflow, state, problem, total, known, blind, done, fps, width, height, videos })
    this.prompt = message.prompt_id
    this.pace = message.seconds_per_frame
    this.left = message.seconds_left
    for (const picture of message.pictures) this.pictures.add(unpacked(picture))
    for (const [index, shift, sharpness, copied] of message.readings)
      this.readings.add({ index, shift, sharpness, copied })
  }

  /** As the panel says it: "cached" where the host took the result from its cache. */
  get shownState() {
    return this.cachedFor ? "cached" : this.state
  }

  /** The latest picture that is not after a frame; the first where there is none. */
  at(frame) {
    return this.pictures.at(frame)
  }

  /** The latest reading of drift that is not after a frame. */
  readingAt(frame) {
    return this.readings.at(frame)
  }
}

/**
 * At most `limit` things by ascending index, one an index, the first and the last among them, about evenly spaced: where
 * one must go, it is the one whose neighbours are nearest to each other.
 */
class Thinned {
  constructor(limit) {
    this.limit = limit
    this.items = []
  }

  /** Takes one, in place of an earlier one of its index. */
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

  /** The last that is not after an index; the first where all are. */
  at(index) {
    return this.items[Math.max(0, this.after(index) - 1)]
  }

  /** Where the first lies that is after an index. */
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
