// What the pages ask of the server: GitHub's REST API and a little of its own.

import { QueryClient } from '@tanstack/react-query'

export class APIError extends Error {
  constructor(readonly status: number, message: string) {
    super(message)
  }
}

export const queries = new QueryClient({
  defaultOptions: { queries: { retry: (n, e) => !(e instanceof APIError) && n < 2, refetchOnWindowFocus: false, staleTime: 2000 } },
})

async function request<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  const headers: Record<string, string> = { 'X-Penstock': '1' }
  if (body !== undefined) headers['Content-Type'] = 'application/json'
  const res = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), cache: 'no-store', signal })
  const text = await res.text()
  let data: unknown
  try {
    data = text === '' ? undefined : JSON.parse(text)
  } catch {
    data = undefined
  }
  if (!res.ok) {
    const said = data as { message?: string; errors?: { message?: string }[] } | undefined
    const detail = said?.errors?.map((e) => e.message).filter(Boolean).join(', ')
    throw new APIError(res.status, [said?.message ?? res.statusText, detail].filter(Boolean).join(': '))
  }
  return data as T
}

export const github = <T>(path: string) => request<T>('GET', '/api/v3' + path)
export const send = <T = unknown>(method: string, path: string, body: unknown = {}) => request<T>(method, '/api/v3' + path, body)
export const native = <T>(path: string, signal?: AbortSignal) => request<T>('GET', '/api/penstock' + path, undefined, signal)
export const sendNative = <T = unknown>(method: string, path: string, body: unknown = {}) => request<T>(method, '/api/penstock' + path, body)

export interface Me {
  login: string
  site_admin: boolean
}

export interface Repository {
  full_name: string
  private: boolean
  default_branch: string
  clone_url: string
  permissions: { admin: boolean; push: boolean; pull: boolean }
}

export interface WorkflowRun {
  id: number
  name: string
  display_title: string
  run_number: number
  run_attempt: number
  event: string
  status: string
  conclusion: string | null
  head_branch: string | null
  head_sha: string
  path: string
  actor: { login: string }
  created_at: string
  run_started_at: string
  updated_at: string
}

export interface Workflow {
  id: number
  name: string
  path: string
  state: string
}

export interface Pull {
  number: number
  title: string
  state: string
  draft: boolean
  merged?: boolean
  mergeable?: boolean | null
  body: string | null
  user: { login: string }
  head: { ref: string; sha: string }
  base: { ref: string }
  created_at: string
  labels: { name: string; color: string }[]
}

export interface Run {
  id: number
  attempt: number
  last_attempt: number
  name: string
  title: string
  number: string
  workflow: string
  event: string
  ref: string
  sha: string
  actor: string
  status: string
  conclusion?: string
  reason?: string
  created: string
  started?: string
  completed?: string
  cancelled_by?: string
  jobs: import('./graph').Job[]
  annotations?: import('./graph').Annotation[]
  numbers: Record<string, number> // of jobs, as their pages are named
}

/** Reads a job's log as it grows; each piece is given to take. */
export async function readLog(path: string, take: (bytes: Uint8Array) => void, signal: AbortSignal) {
  const res = await fetch('/api/penstock' + path, { signal, cache: 'no-store' })
  if (!res.ok || !res.body) {
    const said = (await res.json().catch(() => undefined)) as { message?: string } | undefined
    throw new APIError(res.status, said?.message ?? 'The log can not be read')
  }
  const reader = res.body.getReader()
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return
    take(value)
  }
}

/**
 * Follows a stream of the server while the page is seen, until the function it gives is called. The browser resumes by itself what
 * was cut off; what was refused, or left while nobody looked, begins anew.
 */
export function follow(path: string, on: { message: (data: string) => void; open?: () => void; lost?: () => void }): () => void {
  let source: EventSource | undefined
  let again: ReturnType<typeof setTimeout> | undefined
  const end = () => {
    clearTimeout(again)
    source?.close()
  }
  const begin = () => {
    end()
    if (document.visibilityState !== 'visible') return // a browser has few connections to a server
    const now = (source = new EventSource('/api/penstock' + path))
    now.onopen = () => on.open?.()
    now.onmessage = (e) => on.message(e.data)
    now.onerror = () => {
      on.lost?.()
      if (now.readyState === EventSource.CLOSED) again = setTimeout(begin, 5000)
    }
  }
  document.addEventListener('visibilitychange', begin)
  begin()
  return () => {
    document.removeEventListener('visibilitychange', begin)
    end()
  }
}

/** Calls back when something has happened, at most a few times a second, until the function it gives is called. */
export function listen(path: string, happened: () => void): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined
  const soon = () => {
    timer ??= setTimeout(() => {
      timer = undefined
      happened()
    }, 150)
  }
  let opened = 0
  const end = follow(path, { message: soon, open: () => opened++ > 0 && soon() })
  return () => {
    clearTimeout(timer)
    end()
  }
}
