/** How long something took or takes, as people say it: 3s, 2m 10s, 1h 5m. */
export function duration(from?: string, to?: string, now = Date.now()): string {
  if (!from) return ''
  const seconds = Math.max(0, Math.round(((to ? Date.parse(to) : now) - Date.parse(from)) / 1000))
  if (seconds < 60) return `${seconds}s`
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${seconds % 60}s`
  return `${Math.floor(seconds / 3600)}h ${Math.floor((seconds % 3600) / 60)}m`
}

/** A length of time as the server keeps it, in nanoseconds: 30s, 5m, 1h 30m. */
export function span(nanoseconds: number): string {
  const seconds = nanoseconds / 1e9
  if (seconds < 1) return `${Math.round(seconds * 1000)}ms`
  const whole = Math.round(seconds)
  const parts = [[Math.floor(whole / 3600), 'h'], [Math.floor((whole % 3600) / 60), 'm'], [whole % 60, 's']] as const
  return parts.filter(([n]) => n > 0).map(([n, unit]) => `${n}${unit}`).join(' ')
}

/** A time of day as it is where the reader is, with the day if that is another one. */
export function clock(at: string | number, now = Date.now()): string {
  const date = new Date(at)
  const time = date.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit' })
  return date.toDateString() === new Date(now).toDateString() ? time : `${date.toLocaleDateString()} ${time}`
}

/** A sentence of the server with the times in it as they are where the reader is. */
export const localTimes = (text: string, now = Date.now()) => text.replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)/g, (at) => clock(at, now))

/** A measured number, short. */
export function short(n: number | null | undefined): string {
  if (n === null || n === undefined) return '–'
  const size = Math.abs(n)
  return n.toLocaleString('en', { maximumFractionDigits: size >= 100 ? 0 : size >= 10 ? 1 : 2 })
}

/** How long ago something was. */
export function ago(at?: string, now = Date.now()): string {
  if (!at) return ''
  const seconds = Math.round((now - Date.parse(at)) / 1000)
  if (seconds < 45) return 'just now'
  for (const [unit, length] of [['day', 86_400], ['hour', 3600], ['minute', 60]] as const) {
    const n = Math.round(seconds / length)
    if (n >= 1) return `${n} ${unit}${n === 1 ? '' : 's'} ago`
  }
  return 'a minute ago'
}

/** How much something is, as people say it. */
export function size(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`
  const units = ['KiB', 'MiB', 'GiB', 'TiB']
  const n = Math.min(units.length, Math.floor(Math.log2(bytes) / 10))
  return `${(bytes / 1024 ** n).toFixed(1)} ${units[n - 1]}`
}

/** What a state is called. */
export function stateName(status: string, conclusion?: string | null): string {
  const names: Record<string, string> = {
    success: 'Success', failure: 'Failure', cancelled: 'Cancelled', skipped: 'Skipped', queued: 'Queued', waiting: 'Waiting', pending: 'Pending',
    in_progress: 'In progress', timed_out: 'Timed out', action_required: 'Action required',
  }
  const key = status === 'completed' ? (conclusion ?? '') : status
  return names[key] ?? key
}
