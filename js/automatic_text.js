/** Reading the texts of boxes that can say "auto": the server reads them in the same way. */

export const AUTO = "auto"

const NUMBER = /^[+-]?(\d+([.,]\d*)?|[.,]\d+)$/

/** Whether a value stands for "auto" (or the `word` that a box has in its place): also with a number behind it. */
export function isAuto(value, word = AUTO) {
  const told = String(value ?? "").trim().toLowerCase()
  return !told || told === word || (told.startsWith(word) && /^\s*\(.*\)$/.test(told.slice(word.length)))
}

/**
 * What a text means: the word for "auto", or a number as text. Null if it is neither. `round`: also make it a number
 * that the node takes, as number boxes do.
 */
export function tidied(value, spec, round) {
  if (isAuto(value, spec.word)) return spec.word
  const told = String(value).trim()
  if (!NUMBER.test(told)) return null
  const number = Number(told.replace(",", "."))
  if (number < 0 || (number === 0 && !spec.zero)) return spec.word
  return String(round ? rounded(number, spec) : number)
}

function rounded(number, { whole, step, most, zero }) {
  const unit = step ?? (whole ? 1 : 0)
  const nearest = unit ? Math.max(zero ? 0 : unit, Math.round(number / unit) * unit) : number
  return Math.min(nearest, most)
}
