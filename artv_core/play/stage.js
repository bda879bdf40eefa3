/** Shows pictures at the video's rate, and says which one is shown. */

const HEADER_BYTES = 8
const MOST_KEPT = 64 // the server keeps only a few ahead

export class Stage {
  /** `onShown(index, take)` is called for each picture that is shown. */
  constructor(canvas, onShown) {
    this.canvas = canvas
    this.context = canvas.getContext("2d")
    this.onShown = onShown
    this.waiting = [] // pictures that are not shown yet: {index, take, bitmap}
    this.take = 0
    this.shown = -1
    this.paused = false
    this.isNew = true // whether no picture of the take is shown: the first one is shown in a pause too
    this.due = 0
    this.period = 125
    this.arriving = Promise.resolve() // pictures are decoded one after the other, so that they stay in order
    const tick = (now) => {
      this.show(now)
      requestAnimationFrame(tick) // not called while the page is hidden: then the video waits
    }
    requestAnimationFrame(tick)
  }

  /** What the server says of the video before its first picture. */
  prepare({ fps, width, height }) {
    this.period = 1000 / fps
    this.begin(-1)
    this.shown = -1
    this.canvas.classList.toggle("small", Math.max(width, height) <= 256)
    if (this.canvas.width === width && this.canvas.height === height) return // setting it would clear the picture
    this.canvas.width = width
    this.canvas.height = height
  }

  /** A picture from the server: index and take in front of its file. */
  receive(data) {
    const header = new DataView(data, 0, HEADER_BYTES)
    const index = header.getUint32(0, true)
    const take = header.getUint32(4, true)
    const file = new Blob([data.slice(HEADER_BYTES)])
    this.arriving = this.arriving.then(() => createImageBitmap(file)).then((bitmap) => {
      if (take < this.take || this.waiting.length >= MOST_KEPT) return bitmap.close()
      this.begin(take)
      this.waiting.push({ index, take, bitmap })
    }, () => {}) // a picture that cannot be read is left out
  }

  /** Each step back begins a take: what was made before it is not shown any more. */
  begin(take) {
    if (take === this.take) return
    this.take = take
    this.isNew = true
    for (const { bitmap } of this.waiting) bitmap.close()
    this.waiting = []
  }

  show(now) {
    if ((this.paused && !this.isNew) || now < this.due) return
    const next = this.waiting.shift()
    if (!next) return
    // On time, the next one is due by the clock, so that the rate is exact; after a wait, from now on.
    this.due = now - this.due < this.period ? this.due + this.period : now + this.period
    this.context.drawImage(next.bitmap, 0, 0, this.canvas.width, this.canvas.height)
    next.bitmap.close()
    this.shown = next.index
    this.isNew = false
    this.onShown(next.index, next.take)
  }

  pause(paused) {
    this.paused = paused
    this.due = 0 // a pause is no delay
  }
}
