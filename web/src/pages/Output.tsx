import { Checkbox, Group, Paper, Select, Text, Title } from '@mantine/core'
import { useEffect, useReducer, useRef, useState } from 'react'
import { spans } from '../ansi'
import { readLog } from '../api'
import { LogLines } from '../log'
import { isOver, type Release } from '../release'

const [asked, kept] = [500, 2000] // lines

/** What the instances of a release write. */
export function Output({ path, release: r }: { path: string; release: Release }) {
  const services = r.plan.services.map((s) => s.name)
  const [service, setService] = useState(services[0] ?? '')
  const [instance, setInstance] = useState('')
  const [follow, setFollow] = useState(!isOver(r))
  const [error, setError] = useState('')
  const [, grown] = useReducer((n: number) => n + 1, 0)
  const log = useRef(new LogLines())
  const box = useRef<HTMLDivElement>(null)
  const count = Math.max(r.plan.services.find((s) => s.name === service)?.instances ?? 1, 1)
  const query = new URLSearchParams({ version: String(r.number), service, lines: String(asked), follow: String(follow) })
  if (instance) query.set('instance', instance)
  const file = `${path}/logs?${query}`

  useEffect(() => {
    const stop = new AbortController()
    log.current = new LogLines()
    setError('')
    let frame = 0
    const show = () => {
      frame = 0
      grown()
    }
    const take = (bytes: Uint8Array) => {
      log.current.push(bytes)
      const { lines } = log.current
      if (lines.length > 2 * kept) lines.splice(0, lines.length - kept) // what is followed for days stays small
      frame ||= requestAnimationFrame(show)
    }
    readLog(file, take, stop.signal).then(() => log.current.finish(), (e: Error) => stop.signal.aborted || setError(e.message)).finally(() => stop.signal.aborted || show())
    return () => {
      stop.abort()
      cancelAnimationFrame(frame)
    }
  }, [file])

  const lines = log.current.lines
  const first = Math.max(0, lines.length - kept)
  useEffect(() => {
    if (follow && box.current) box.current.scrollTop = box.current.scrollHeight
  }, [follow, lines.length])

  return (
    <Paper withBorder p="md" component="section" aria-label="Logs">
      <Group mb="xs" gap="sm">
        <Title order={3} size="h4">Logs</Title>
        {services.length > 1 && <Select size="xs" w={140} aria-label="Service" data={services} value={service} allowDeselect={false} onChange={(s) => (setService(s ?? ''), setInstance(''))} />}
        {count > 1 && (
          <Select
            size="xs" w={140} aria-label="Instance" allowDeselect={false} value={instance} onChange={(i) => setInstance(i ?? '')}
            data={[{ value: '', label: 'All instances' }, ...Array.from({ length: count }, (_, i) => ({ value: String(i), label: `Instance ${i}` }))]}
          />
        )}
        <Checkbox size="xs" label="Follow" checked={follow} onChange={(e) => setFollow(e.currentTarget.checked)} />
        {error && <Text size="xs" c="red" role="alert">{error}</Text>}
      </Group>
      <div className="log output" ref={box} tabIndex={0} role="log" aria-live="off" aria-label="Lines">
        {lines.length === 0 && <div className="dim">Nothing was written yet.</div>}
        {lines.slice(first).map((l, i) => (
          <div key={first + i}>
            {spans(l).map((s, n) => (
              <span key={n} className={s.classes || undefined} style={s.color || s.background ? { color: s.color, background: s.background } : undefined}>{s.text}</span>
            ))}
          </div>
        ))}
      </div>
    </Paper>
  )
}
