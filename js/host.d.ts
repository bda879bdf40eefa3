/** What the pack's scripts use of ComfyUI's page, which has no types of its own to check against. */

declare module "*/scripts/app.js" {
  export const app: any
}

declare module "*/scripts/api.js" {
  export const api: any
}

interface Window {
  LiteGraph?: { vueNodesMode?: boolean }
}
