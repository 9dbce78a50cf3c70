// Small parts that several pages have.

import { Alert, Anchor, Badge, Breadcrumbs, Center, Group, Loader, Stack, Table, Text, Title } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { Link } from '@tanstack/react-router'
import { lazy, Suspense, useEffect, useState, type ReactNode } from 'react'
import { github, type Repository } from './api'
import { localTimes, stateName } from './format'

const shapes: Record<string, { colour: string; path: ReactNode; spin?: boolean }> = {
  success: { colour: 'var(--ok)', path: <><circle cx="8" cy="8" r="7" fill="currentColor" /><path d="M4.6 8.3l2.3 2.3 4.5-4.8" className="cut" /></> },
  failure: { colour: 'var(--bad)', path: <><circle cx="8" cy="8" r="7" fill="currentColor" /><path d="M5.4 5.4l5.2 5.2M10.6 5.4l-5.2 5.2" className="cut" /></> },
  cancelled: { colour: 'var(--quiet)', path: <><circle cx="8" cy="8" r="6" className="ring" /><path d="M4 4l8 8" className="ring" /></> },
  skipped: { colour: 'var(--quiet)', path: <><circle cx="8" cy="8" r="6" className="ring" /><path d="M5 11l6-6" className="ring" /></> },
  in_progress: { colour: 'var(--busy)', spin: true, path: <><circle cx="8" cy="8" r="6" className="ring" opacity=".35" /><path d="M8 2a6 6 0 0 1 6 6" className="ring" /><circle cx="8" cy="8" r="2.6" fill="currentColor" /></> },
  waiting: { colour: 'var(--wait)', path: <><circle cx="8" cy="8" r="6" className="ring" /><path d="M8 4.5V8l2.4 1.6" className="ring" /></> },
  queued: { colour: 'var(--wait)', path: <circle cx="8" cy="8" r="4" fill="currentColor" /> },
  pending: { colour: 'var(--quiet)', path: <circle cx="8" cy="8" r="5" className="ring" strokeDasharray="2 2.2" /> },
}

/** A state as a sign: its shape says it as well as its colour. */
export function State({ status, conclusion, size = 16, silent }: { status: string; conclusion?: string | null; size?: number; silent?: boolean }) {
  const key = status === 'completed' ? (conclusion ?? 'skipped') : status
  const s = shapes[key] ?? shapes[key === 'timed_out' ? 'failure' : 'pending']!
  const name = stateName(status, conclusion)
  return (
    <svg width={size} height={size} viewBox="0 0 16 16" style={{ color: s.colour, flex: 'none' }} className={s.spin ? 'sign spin' : 'sign'} {...(silent ? { 'aria-hidden': true } : { role: 'img', 'aria-label': name })}>
      {!silent && <title>{name}</title>}
      {s.path}
    </svg>
  )
}

export function Problem({ error }: { error: unknown }) {
  const message = error instanceof Error ? error.message : String(error)
  return (
    <Alert color="red" title="That did not work" role="alert">
      {message}
    </Alert>
  )
}

export function Waiting({ what }: { what: string }) {
  return (
    <Center py="xl" role="status" aria-label={`Loading ${what}`}>
      <Loader size="sm" />
    </Center>
  )
}

const parts = [['actions', 'Runs'], ['pulls', 'Pull requests'], ['environments', 'Environments'], ['caches', 'Caches'], ['settings', 'Settings']] as const

export const useRepository = (name: string) => useQuery({ queryKey: ['repository', name], queryFn: () => github<Repository>(`/repos/${name}`) })

const intoView = (link: HTMLElement | null) => link?.scrollIntoView({ block: 'nearest', inline: 'center' })

/** The head of a repository's pages: where one is, and where one can go. */
export function RepositoryHead({ owner, repo, tab, children }: { owner: string; repo: string; tab: (typeof parts)[number][0]; children?: ReactNode }) {
  useEffect(() => {
    document.title = `${owner}/${repo} · Penstock`
  }, [owner, repo])
  return (
    <Stack gap="sm" mb="md">
      <Group justify="space-between" wrap="wrap">
        <Breadcrumbs>
          <Anchor component={Link} to="/">
            Repositories
          </Anchor>
          <Title order={1} size="h3">
            <Anchor component={Link} to={`/${owner}/${repo}/actions`} inherit c="inherit">
              {owner}/{repo}
            </Anchor>
          </Title>
        </Breadcrumbs>
        {children}
      </Group>
      <nav className="parts" aria-label="Parts of the repository">
        {parts.map(([part, title]) => (
          <Link key={part} to={`/${owner}/${repo}/${part}`} aria-current={part === tab ? 'page' : undefined} ref={part === tab ? intoView : undefined}>
            {title}
          </Link>
        ))}
      </nav>
    </Stack>
  )
}

const Written = lazy(() => import('./prose'))

/** Markdown of people. What reads it comes when there is some. */
export function Prose(props: { children: string; html?: boolean }) {
  return (
    <Suspense fallback={<Waiting what="the text" />}>
      <Written {...props} />
    </Suspense>
  )
}

const toEnd = (e: HTMLElement | null) => {
  if (e) e.scrollTop = e.scrollHeight
}

/** What the server says and, below it, what a program wrote, with its end in sight. */
export function Said({ text, now, children }: { text: string; now: number; children?: ReactNode }) {
  const [first, ...rest] = localTimes(text.trimEnd(), now).split('\n')
  return (
    <div className="wrap">
      {first}{children}
      {rest.length > 0 && <pre className="output-end" tabIndex={0} ref={toEnd}>{rest.join('\n')}</pre>}
    </div>
  )
}

export function Empty({ title, children }: { title: string; children: ReactNode }) {
  return (
    <Stack align="center" py="xl" gap="xs" ta="center">
      <Text fw={600}>{title}</Text>
      <Text c="dimmed" component="div" maw={640}>
        {children}
      </Text>
    </Stack>
  )
}

export function Branch({ name }: { name?: string | null }) {
  return name ? (
    <Badge variant="light" color="gray" tt="none" ff="monospace" fw={500} maw={240} title={name}>
      {name}
    </Badge>
  ) : null
}

/** The time, again every second while something runs. */
export function useNow(running: boolean): number {
  const [now, set] = useState(Date.now)
  useEffect(() => {
    if (!running) return
    const timer = setInterval(() => set(Date.now()), 1000)
    return () => clearInterval(timer)
  }, [running])
  return now
}

/** A table that keeps its width where there is less, and is moved there, by keys as well. */
export function WideTable({ width, label, children }: { width: number; label: string; children: ReactNode }) {
  return (
    <Table.ScrollContainer minWidth={width} type="native" tabIndex={0}>
      <Table aria-label={label}>{children}</Table>
    </Table.ScrollContainer>
  )
}
