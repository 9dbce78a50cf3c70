import { ActionIcon, Anchor, Button, Checkbox, Group, Text, TextInput } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { useVirtualizer } from '@tanstack/react-virtual'
import { useEffect, useMemo, useReducer, useRef, useState } from 'react'
import { plain, spans } from '../ansi'
import { native, readLog } from '../api'
import { duration } from '../format'
import type { Job } from '../graph'
import { groupsAround, groupStart, level, lineAt, LogLines, parseRange, rows, type Step } from '../log'
import { State } from '../parts'

const rowHeight = 20

/** A job's log: virtual, live, folded by steps and groups, searched over all its lines. */
export function Log({ path, job, now }: { path: string; job: Job; now: number }) {
  const log = useRef(new LogLines())
  const [size, grown] = useReducer((n: number) => n + 1, 0)
  const [error, setError] = useState('')
  const [openSteps, setOpenSteps] = useState<ReadonlySet<number>>(new Set())
  const [openGroups, setOpenGroups] = useState<ReadonlySet<number>>(new Set())
  const [follow, setFollow] = useState(job.status !== 'completed')
  const [query, setQuery] = useState('')
  const [match, setMatch] = useState(0)
  const [chosen, setChosen] = useState(() => parseRange(location.hash))
  const [showTimes, setShowTimes] = useState(false)
  const touched = useRef<Set<number>>(new Set()) // steps that were opened or closed by hand
  const box = useRef<HTMLDivElement>(null)
  const steps: Step[] = job.steps ?? []
  const file = `${path}/jobs/${encodeURIComponent(job.id)}/log?attempt=${job.attempt}`

  useEffect(() => {
    const stop = new AbortController()
    log.current = new LogLines()
    let frame = 0
    const take = (bytes: Uint8Array) => {
      log.current.push(bytes)
      frame ||= requestAnimationFrame(() => {
        frame = 0
        grown()
      })
    }
    const read = async () => {
      for (;;) {
        try {
          await readLog(`${file}&follow=1&from=${log.current.bytes}`, take, stop.signal)
          log.current.finish()
          grown()
          return
        } catch (e) {
          if (stop.signal.aborted) return
          setError((e as Error).message)
          await new Promise((r) => setTimeout(r, 1000)) // the server is away: go on where it was
          log.current = Object.assign(new LogLines(), { lines: log.current.lines, offsets: log.current.offsets, bytes: log.current.bytes })
          setError('')
        }
      }
    }
    void read()
    return () => {
      stop.abort()
      cancelAnimationFrame(frame)
    }
  }, [file])

  // What runs and what failed is open, unless somebody has said otherwise.
  const wanted = steps.filter((s) => s.status === 'in_progress' || s.conclusion === 'failure').map((s) => s.number).join()
  useEffect(() => {
    setOpenSteps((open) => new Set([...[...open].filter((n) => touched.current.has(n) || job.status === 'completed'), ...wanted.split(',').filter(Boolean).map(Number).filter((n) => !touched.current.has(n))]))
  }, [wanted, job.status])

  const list = useMemo(() => rows(log.current, steps, openSteps, openGroups), [size, job, openSteps, openGroups])
  const view = useVirtualizer({ count: list.length, getScrollElement: () => box.current, estimateSize: () => rowHeight, overscan: 20 })

  const found = useMemo(() => {
    const text = query.toLowerCase()
    if (text === '') return []
    const out: number[] = []
    log.current.lines.forEach((l, i) => plain(l).toLowerCase().includes(text) && out.push(i))
    return out
  }, [query, size])

  const stepOf = (line: number): number => {
    for (let i = steps.length - 1; i >= 0; i--) if (lineAt(log.current.offsets, steps[i]!.log_start) <= line) return i
    return 0
  }
  /** Opens what hides a line and scrolls to it. */
  const show = (line: number) => {
    const i = stepOf(line)
    const step = steps[i]
    const from = step ? lineAt(log.current.offsets, step.log_start) : 0
    const groups = groupsAround(log.current, from, line)
    const [s, g] = [step ? new Set([...openSteps, step.number]) : openSteps, new Set([...openGroups, ...groups])]
    if (step) touched.current.add(step.number)
    setOpenSteps(s)
    setOpenGroups(g)
    setFollow(false)
    const at = rows(log.current, steps, s, g).findIndex((r) => r.kind !== 'step' && r.line === line)
    setTimeout(() => at >= 0 && view.scrollToIndex(at, { align: 'center' }), 30)
  }
  const next = (by: number) => {
    if (found.length === 0) return
    const n = (match + by + found.length) % found.length
    setMatch(n)
    show(found[n]!)
  }
  const linked = useRef(false)
  useEffect(() => {
    if (chosen && !linked.current && log.current.lines.length >= chosen[0]) {
      linked.current = true
      show(chosen[0] - 1)
    }
  }, [size])
  useEffect(() => {
    if (follow && list.length > 0) view.scrollToIndex(list.length - 1, { align: 'end' })
  }, [size, follow, list.length])

  const choose = (line: number, extend: boolean) => {
    const range: [number, number] = extend && chosen ? [Math.min(chosen[0], line), Math.max(chosen[1], line)] : [line, line]
    setChosen(range)
    history.replaceState(null, '', range[0] === range[1] ? `#L${range[0]}` : `#L${range[0]}-L${range[1]}`)
  }
  const times = useQuery({ queryKey: ['times', file, job.status], enabled: showTimes, queryFn: () => native<[number, number][]>(`${path}/jobs/${encodeURIComponent(job.id)}/times?attempt=${job.attempt}`) })
  const timeOf = (line: number) => {
    const marks = times.data ?? []
    const at = lineAt(marks.map((m) => m[0]), (log.current.offsets[line] ?? 0) + 1) - 1
    return marks[at] ? new Date(marks[at][1]).toLocaleTimeString() : ''
  }
  const toggle = (set: ReadonlySet<number>, n: number) => new Set(set.has(n) ? [...set].filter((x) => x !== n) : [...set, n])

  return (
    <section aria-label={`Log of ${job.name}`}>
      <Group mb="xs" gap="xs" wrap="wrap">
        <TextInput
          size="xs" aria-label="Search the log" placeholder="Search the log" value={query} w={220}
          onChange={(e) => {
            setQuery(e.currentTarget.value)
            setMatch(-1)
          }}
          onKeyDown={(e) => e.key === 'Enter' && (e.preventDefault(), next(e.shiftKey ? -1 : 1))}
        />
        {query !== '' && (
          <Group gap={4} role="status">
            <Text size="xs">{found.length === 0 ? 'nothing found' : `${match + 1 || '–'} of ${found.length}`}</Text>
            <ActionIcon size="sm" variant="default" aria-label="Match before" onClick={() => next(-1)}>↑</ActionIcon>
            <ActionIcon size="sm" variant="default" aria-label="Next match" onClick={() => next(1)}>↓</ActionIcon>
          </Group>
        )}
        <Checkbox size="xs" label="Follow" checked={follow} onChange={(e) => setFollow(e.currentTarget.checked)} />
        <Checkbox size="xs" label="Times" checked={showTimes} onChange={(e) => setShowTimes(e.currentTarget.checked)} />
        <Button size="compact-xs" variant="default" onClick={() => setOpenSteps(new Set(openSteps.size === steps.length ? [] : steps.map((s) => (touched.current.add(s.number), s.number))))}>
          {openSteps.size === steps.length ? 'Fold all' : 'Open all'}
        </Button>
        <Anchor size="xs" href={`/api/penstock${file}&download=1`} download>
          Download
        </Anchor>
        {error && <Text size="xs" c="red" role="alert">{error}, trying again</Text>}
      </Group>
      <div
        className="log" ref={box} tabIndex={0} role="log" aria-live="off" aria-label="Lines"
        onWheel={(e) => e.deltaY < 0 && setFollow(false)}
        onKeyDown={(e) => (e.key === 'PageUp' || e.key === 'ArrowUp' || e.key === 'Home') && setFollow(false)}
      >
        <div style={{ height: view.getTotalSize(), position: 'relative', minWidth: 'max-content' }}>
          {view.getVirtualItems().map((item) => {
            const row = list[item.index]!
            const style = { transform: `translateY(${item.start}px)` }
            if (row.kind === 'step') {
              const step = steps[row.step]!
              const open = openSteps.has(step.number)
              return (
                <div key={'s' + step.number} className="row step" style={style}>
                  <button className="fold" aria-expanded={open} onClick={() => (touched.current.add(step.number), setOpenSteps(toggle(openSteps, step.number)))}>
                    <span aria-hidden="true">{open ? '▾' : '▸'}</span>
                    <State status={step.status} conclusion={step.conclusion} size={14} />
                    {step.name}
                    <span className="took">{duration(step.started, step.completed, now)}</span>
                  </button>
                </div>
              )
            }
            const number = row.line + 1
            const text = log.current.lines[row.line]!
            const marks = [chosen && number >= chosen[0] && number <= chosen[1] ? ' chosen' : '', found[match] === row.line ? ' found' : ''].join('')
            const l = level(text)
            return (
              <div key={row.line} className={'row' + marks} style={style}>
                <a className="no" href={`#L${number}`} aria-label={`Line ${number}`} tabIndex={-1} onClick={(e) => (e.preventDefault(), choose(number, e.shiftKey))}>
                  {number}
                </a>
                {showTimes && <span className="time">{timeOf(row.line)}</span>}
                {row.kind === 'group' ? (
                  <button className="fold" aria-expanded={row.open} style={{ paddingLeft: row.depth * 16 }} onClick={() => setOpenGroups(toggle(openGroups, row.line))}>
                    <span aria-hidden="true">{row.open ? '▾' : '▸'}</span>
                    {plain(text.replace(groupStart, ''))}
                  </button>
                ) : (
                  <span className={l.level} style={{ paddingLeft: row.depth * 16, paddingRight: 16 }}>
                    {spans(l.text).map((s, i) => (
                      <span key={i} className={s.classes || undefined} style={s.color || s.background ? { color: s.color, background: s.background } : undefined}>
                        {s.text}
                      </span>
                    ))}
                  </span>
                )}
              </div>
            )
          })}
        </div>
      </div>
    </section>
  )
}
