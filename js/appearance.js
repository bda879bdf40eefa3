/** Colours and sizes of new nodes. A node from a workflow keeps the colours of the workflow, or has none. */

import { app, widen } from "./page.js"

const MODELS = { color: "#252e3c", bgcolor: "#2f3a4c" }
const SAMPLING = { color: "#212f31", bgcolor: "#2a3c3f" }
const CONDITIONS = { color: "#322b3b", bgcolor: "#3f364a" }
const OUTPUTS = { color: "#273024", bgcolor: "#303c2c" }
const RECORDS = { color: "#342c23", bgcolor: "#42382c" }

/** The colours of each node, and its width unless a panel in it sets that. */
const LOOKS = {
  ARTVLoader: [MODELS],
  ARTVAdaptModel: [MODELS, 300],
  ARTVLoRA: [MODELS, 300],
  ARTVMaskedDiffusionSampler: [SAMPLING],
  ARTVMultiPromptScheduler: [CONDITIONS],
  ARTVAnchorFrame: [CONDITIONS, 300],
  ARTVNoiseAugment: [CONDITIONS, 300],
  ARTVFitImage: [CONDITIONS, 300],
  ARTVKeyframes: [CONDITIONS, 300],
  ARTVShortcutSettings: [CONDITIONS, 300],
  ARTVSamplingOptions: [CONDITIONS, 300],
  ARTVDecodeVideo: [OUTPUTS, 300],
  ARTVStreamVideo: [OUTPUTS, 300],
  ARTVDriftReadout: [OUTPUTS, 300],
  ARTVStepMasks: [OUTPUTS, 300],
  ARTVJournalSettings: [RECORDS, 300],
  ARTVLoadJournal: [RECORDS, 340],
  ARTVJournals: [RECORDS, 340],
}

app.registerExtension({
  name: "ARTV.appearance",
  nodeCreated(node) {
    const [colours, width] = LOOKS[node.comfyClass] ?? []
    if (!colours) return
    Object.assign(node, colours)
    if (width) widen(node, width)
    keepWhatIsSaved(node, colours)
  },
})

/** A node that is loaded, pasted or restored by undo has the colours that were saved, or none. */
function keepWhatIsSaved(node, colours) {
  const configure = node.configure
  node.configure = function (saved, ...more) {
    for (const name of Object.keys(colours)) this[name] = saved?.[name]
    return configure.call(this, saved, ...more)
  }
}
