// ANSI colours of logs, as terminals show them: SGR sequences become spans, all others vanish.

export interface Span {
  text: string
  classes: string // of styles.css: fg-1, bg-4, bold ...; empty for plain text
  color?: string // of the 256 and true colours
  background?: string
}

interface Style {
  classes: Set<string>
  color?: string
  background?: string
}

const escape = /\x1b(?:\[([0-9;:]*)([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])/g

/** The colour of a number of the 256: a class below 16, else its value. */
function palette(n: number): string {
  if (n >= 232) {
    const grey = 8 + (n - 232) * 10
    return `rgb(${grey},${grey},${grey})`
  }
  const level = (v: number) => (v === 0 ? 0 : 55 + v * 40)
  const i = n - 16
  return `rgb(${level(Math.floor(i / 36))},${level(Math.floor(i / 6) % 6)},${level(i % 6)})`
}

function setColor(style: Style, ground: 'fg' | 'bg', codes: number[], at: number): number {
  const member = ground === 'fg' ? 'color' : 'background'
  clear(style, ground)
  if (codes[at + 1] === 5) {
    const n = codes[at + 2] ?? 0
    if (n < 16) style.classes.add(`${ground}-${n}`)
    else if (n < 256) style[member] = palette(n)
    return at + 2
  }
  if (codes[at + 1] === 2) {
    const [r, g, b] = [codes[at + 2] ?? 0, codes[at + 3] ?? 0, codes[at + 4] ?? 0].map((v) => Math.min(v, 255))
    style[member] = `rgb(${r},${g},${b})`
    return at + 4
  }
  return at
}

function clear(style: Style, ground: 'fg' | 'bg') {
  for (const c of style.classes) if (c.startsWith(ground + '-')) style.classes.delete(c)
  style[ground === 'fg' ? 'color' : 'background'] = undefined
}

const switches: Record<number, [string, boolean]> = {
  1: ['bold', true], 2: ['dim', true], 3: ['italic', true], 4: ['underline', true], 9: ['strike', true],
  23: ['italic', false], 24: ['underline', false], 29: ['strike', false],
}

function apply(style: Style, codes: number[]) {
  for (let i = 0; i < codes.length; i++) {
    const c = codes[i]!
    const s = switches[c]
    if (c === 0) {
      style.classes.clear()
      style.color = style.background = undefined
    } else if (s) {
      if (s[1]) style.classes.add(s[0])
      else style.classes.delete(s[0])
    } else if (c === 22) {
      style.classes.delete('bold')
      style.classes.delete('dim')
    } else if (c === 38 || c === 48) i = setColor(style, c === 38 ? 'fg' : 'bg', codes, i)
    else if (c === 39 || c === 49) clear(style, c === 39 ? 'fg' : 'bg')
    else {
      const base = c >= 100 ? c - 100 + 8 : c >= 90 ? c - 90 + 8 : c >= 40 ? c - 40 : c - 30
      const ground = (c >= 40 && c < 50) || c >= 100 ? 'bg' : 'fg'
      if ((c >= 30 && c < 48) || (c >= 90 && c < 98) || (c >= 100 && c < 108)) {
        clear(style, ground)
        style.classes.add(`${ground}-${base}`)
      }
    }
  }
}

/** Cuts a line into spans of one style. */
export function spans(line: string): Span[] {
  if (!line.includes('\x1b')) return line === '' ? [] : [{ text: line, classes: '' }]
  const out: Span[] = []
  const style: Style = { classes: new Set() }
  let at = 0
  const push = (text: string) => {
    if (text !== '') out.push({ text, classes: [...style.classes].join(' '), color: style.color, background: style.background })
  }
  for (const m of line.matchAll(escape)) {
    push(line.slice(at, m.index))
    at = m.index + m[0].length
    if (m[2] === 'm') apply(style, (m[1] ?? '').split(/[;:]/).slice(0, 64).map(Number))
  }
  push(line.slice(at))
  return out
}

/** A line without its escape sequences: what a search looks at. */
export function plain(line: string): string {
  return line.includes('\x1b') ? line.replace(escape, '') : line
}
