import { describe, expect, it } from 'vitest'
import { plain, spans } from './ansi'
import { ago, duration } from './format'
import { criticalPath, layout, summary, type Job } from './graph'
import { groupsAround, level, lineAt, LogLines, parseRange, rows } from './log'

const bytes = (s: string) => new TextEncoder().encode(s)

describe('ansi', () => {
  it('colours text and resets', () => {
    expect(spans('a\x1b[31;1mred\x1b[0m b')).toEqual([
      { text: 'a', classes: '' }, { text: 'red', classes: 'fg-1 bold' }, { text: ' b', classes: '' },
    ])
    expect(spans('\x1b[38;5;196mx')[0]).toMatchObject({ color: 'rgb(255,0,0)' })
    expect(spans('\x1b[48;2;1;2;999mx')[0]).toMatchObject({ background: 'rgb(1,2,255)' })
    expect(spans('\x1b[92mx\x1b[39my').map((s) => s.classes)).toEqual(['fg-10', ''])
  })
  it('drops what is no colour, and gives no markup', () => {
    expect(plain('\x1b]0;title\x07a\x1b[2Kb\x1b[1;1Hc')).toBe('abc')
    expect(spans('<img src=x onerror=alert(1)>')[0]!.text).toBe('<img src=x onerror=alert(1)>')
  })
})

describe('log', () => {
  it('cuts lines wherever the bytes are cut', () => {
    const text = 'one\r\nzwölf\n##[group]G\nin\n##[endgroup]\nlast'
    for (let size = 1; size < 12; size++) {
      const log = new LogLines()
      const data = bytes(text)
      for (let i = 0; i < data.length; i += size) log.push(data.slice(i, i + size))
      log.finish()
      expect(log.lines).toEqual(['one', 'zwölf', '##[group]G', 'in', '##[endgroup]', 'last'])
      expect(log.offsets).toEqual([0, 5, 12, 23, 26, 39])
    }
  })
  it('folds groups and steps', () => {
    const log = new LogLines()
    log.push(bytes('a\n##[group]G\nx\n##[group]H\ny\n##[endgroup]\n##[endgroup]\nb\nc\n'))
    const steps = [
      { number: 1, name: 'one', status: 'completed', log_start: 0 },
      { number: 2, name: 'two', status: 'in_progress', log_start: log.offsets[8]! },
    ]
    expect(rows(log, steps, new Set(), new Set()).map((r) => r.kind)).toEqual(['step', 'step'])
    expect(rows(log, steps, new Set([1]), new Set()).map((r) => r.kind)).toEqual(['step', 'line', 'group', 'line', 'step'])
    expect(rows(log, steps, new Set([1]), new Set([1, 3])).map((r) => r.kind)).toEqual(['step', 'line', 'group', 'line', 'group', 'line', 'line', 'step'])
    expect(groupsAround(log, 0, 4)).toEqual([1, 3])
    expect(lineAt(log.offsets, 3)).toBe(2)
  })
  it('reads levels and ranges', () => {
    expect(level('##[error]bad')).toEqual({ text: 'bad', level: 'error' })
    expect(parseRange('#L7-L3')).toEqual([3, 7])
    expect(parseRange('#L9')).toEqual([9, 9])
    expect(parseRange('#x')).toBeUndefined()
  })
  it('takes 200,000 lines', () => {
    const log = new LogLines()
    log.push(bytes('a line of the log\n'.repeat(200_000)))
    expect(rows(log, [], new Set(), new Set()).length).toBe(200_000)
  })
})

const job = (id: string, more: Partial<Job> = {}): Job => ({ id, name: id, cell: 0, cells: 1, status: 'completed', conclusion: 'success', attempt: 1, ...more })

describe('graph', () => {
  it('puts jobs into columns', () => {
    const g = layout([
      job('lint'), job('test', { expanded: true }), job('test/0', { cells: 2 }), job('test/1', { cell: 1, cells: 2 }),
      job('deploy', { needs: ['lint', 'test'] }), job('tell', { needs: ['deploy', 'lint'] }),
    ])
    expect(g.nodes.map((n) => [n.id, n.column, n.jobs.length])).toEqual([['lint', 0, 1], ['test', 0, 2], ['deploy', 1, 1], ['tell', 2, 1]])
    expect(g.edges).toEqual([['lint', 'deploy'], ['test', 'deploy'], ['deploy', 'tell']])
  })
  it('draws the jobs of a call', () => {
    const g = layout([job('build'), job('ship', { call: true, needs: ['build'] }), job('ship:push', { parent: 'ship' }), job('end', { needs: ['ship'] })])
    expect(g.edges).toEqual([['build', 'ship:push'], ['ship:push', 'end']])
  })
  it('survives a circle', () => {
    expect(layout([job('a', { needs: ['b'] }), job('b', { needs: ['a'] })]).nodes.length).toBe(2)
  })
  it('sums up', () => {
    expect(summary([job('a'), job('b', { conclusion: 'failure' })])).toEqual({ status: 'completed', conclusion: 'failure' })
    expect(summary([job('a'), job('b', { status: 'waiting' })])).toEqual({ status: 'waiting' })
  })
  it('finds what took the time', () => {
    const at = (s: number) => new Date(s * 1000).toISOString()
    const path = criticalPath([
      job('slow', { started: at(0), completed: at(9) }), job('fast', { started: at(0), completed: at(1) }),
      job('last', { needs: ['slow', 'fast'], started: at(9), completed: at(10) }),
    ])
    expect([...path]).toEqual(['last', 'slow'])
  })
})

describe('format', () => {
  it('says times', () => {
    expect(duration('2026-01-01T00:00:00Z', '2026-01-01T01:05:09Z')).toBe('1h 5m')
    expect(duration('2026-01-01T00:00:00Z', '2026-01-01T00:02:03Z')).toBe('2m 3s')
    expect(ago('2026-01-01T00:00:00Z', Date.parse('2026-01-01T02:00:00Z'))).toBe('2 hours ago')
  })
})
