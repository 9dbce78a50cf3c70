// A job's log: bytes as they come, cut into lines, with the groups that its writers made.

export interface Step {
  number: number
  name: string
  status: string
  conclusion?: string
  log_start: number
  log_end?: number
  started?: string
  completed?: string
  summary?: string
  snapshot?: string
}

export type Row =
  | { kind: 'step'; step: number; count: number } // index of the step; how many lines it has
  | { kind: 'line'; line: number; depth: number } // index of the line
  | { kind: 'group'; line: number; open: boolean; depth: number }

/** The lines of a log and the byte at which each begins. */
export class LogLines {
  readonly lines: string[] = []
  readonly offsets: number[] = []
  bytes = 0
  private rest = new Uint8Array(0)
  private decoder = new TextDecoder()

  /** Adds bytes; those of a line that has not ended wait for its end. */
  push(chunk: Uint8Array) {
    const data = this.rest.length === 0 ? chunk : join(this.rest, chunk)
    const end = data.lastIndexOf(10) + 1
    if (end > 0) this.add(data.subarray(0, end))
    this.rest = data.slice(end)
  }

  /** Takes what has no end for a line. */
  finish() {
    if (this.rest.length > 0) this.add(join(this.rest, new Uint8Array([10])))
    this.rest = new Uint8Array(0)
  }

  private add(data: Uint8Array) {
    let from = 0
    for (let to = data.indexOf(10); to >= 0; to = data.indexOf(10, from)) {
      this.offsets.push(this.bytes + from)
      from = to + 1
    }
    const text = this.decoder.decode(data)
    const lines = text.split('\n')
    lines.pop()
    for (const l of lines) this.lines.push(l.endsWith('\r') ? l.slice(0, -1) : l)
    this.bytes += data.length
  }
}

function join(a: Uint8Array, b: Uint8Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(a.length + b.length)
  out.set(a)
  out.set(b, a.length)
  return out
}

/** The first line that begins at an offset or after it. */
export function lineAt(offsets: number[], offset: number): number {
  let [low, high] = [0, offsets.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if (offsets[middle]! < offset) low = middle + 1
    else high = middle
  }
  return low
}

export const groupStart = /^##\[group\]/
const groupEnd = /^##\[endgroup\]/

/** What is shown: a row a step, and below the open ones their lines and groups. */
export function rows(log: LogLines, steps: Step[], openSteps: ReadonlySet<number>, openGroups: ReadonlySet<number>): Row[] {
  const out: Row[] = []
  steps.forEach((step, i) => {
    const from = lineAt(log.offsets, step.log_start)
    const next = steps[i + 1]
    const to = next ? lineAt(log.offsets, next.log_start) : log.lines.length
    out.push({ kind: 'step', step: i, count: Math.max(to - from, 0) })
    if (openSteps.has(step.number)) addLines(out, log, from, to, openGroups)
  })
  if (steps.length === 0) addLines(out, log, 0, log.lines.length, openGroups)
  return out
}

function addLines(out: Row[], log: LogLines, from: number, to: number, openGroups: ReadonlySet<number>) {
  let depth = 0
  let hidden = 0 // depth of the outermost closed group, from 1; 0 is none
  for (let i = from; i < to; i++) {
    const line = log.lines[i]!
    if (line.startsWith('##[')) {
      if (groupStart.test(line)) {
        const open = openGroups.has(i)
        if (!hidden) out.push({ kind: 'group', line: i, open, depth })
        depth++
        if (!open && !hidden) hidden = depth
        continue
      }
      if (groupEnd.test(line)) {
        if (hidden === depth) hidden = 0
        depth = Math.max(depth - 1, 0)
        continue
      }
    }
    if (!hidden) out.push({ kind: 'line', line: i, depth })
  }
}

/** The group that a line is folded into, with those around it: what must be open for it to be seen. */
export function groupsAround(log: LogLines, from: number, line: number): number[] {
  const open: number[] = []
  for (let i = from; i < line; i++) {
    const text = log.lines[i]!
    if (groupStart.test(text)) open.push(i)
    else if (groupEnd.test(text)) open.pop()
  }
  return open
}

const levels: [RegExp, string][] = [
  [/^##\[error\]/, 'error'], [/^##\[warning\]/, 'warning'], [/^##\[notice\]/, 'notice'], [/^##\[debug\]/, 'debug'], [/^\[command\]/, 'command'],
]

/** A line's text without the mark of its level, and that level. */
export function level(line: string): { text: string; level: string } {
  if (line.startsWith('##[') || line.startsWith('[command]')) {
    for (const [mark, name] of levels) if (mark.test(line)) return { text: line.replace(mark, ''), level: name }
  }
  return { text: line, level: '' }
}

/** The lines of a #L10-L20, from 1; nothing if it names none. */
export function parseRange(hash: string): [number, number] | undefined {
  const m = /^#?L(\d{1,9})(?:-L(\d{1,9}))?$/.exec(hash)
  if (!m) return undefined
  const [a, b] = [Number(m[1]), Number(m[2] ?? m[1])]
  return [Math.min(a, b), Math.max(a, b)]
}
