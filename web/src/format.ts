/** How long something took or takes, as people say it: 3s, 2m 10s, 1h 5m. */
export function duration(from?: string, to?: string, now = Date.now()): string {
  if (!from) return ''
  const seconds = Math.max(0, Math.round(((to ? Date.parse(to) : now) - Date.parse(from)) / 1000))
  if (seconds < 60) return `${seconds}s`
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${seconds % 60}s`
  return `${Math.floor(seconds / 3600)}h ${Math.floor((seconds % 3600) / 60)}m`
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
