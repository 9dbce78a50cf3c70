// What follows the server: an environment and its releases, as they change.

import { useDocumentVisibility } from '@mantine/hooks'
import { keepPreviousData, useQuery } from '@tanstack/react-query'
import { useEffect } from 'react'
import { APIError, native, queries } from './api'
import type { EnvironmentView, Release } from './release'

/** An environment as it is now: each question waits at the server until there is news, and the next follows it. */
export function useEnvironment(path: string) {
  const key = ['environment', path]
  const visible = useDocumentVisibility() === 'visible'
  const query = useQuery({
    queryKey: key, retry: false,
    queryFn: ({ signal }) => {
      const known = queries.getQueryData<EnvironmentView>(key)
      return native<EnvironmentView>(known ? `${path}?after=${known.version}` : path, signal)
    },
  })
  const { fetchStatus, dataUpdatedAt, errorUpdatedAt, error, refetch } = query
  const refused = error instanceof APIError && error.status < 500
  useEffect(() => {
    if (!visible || refused || fetchStatus !== 'idle') return
    const timer = setTimeout(() => void refetch({ cancelRefetch: false }), error ? 3000 : 200)
    return () => clearTimeout(timer)
  }, [visible, refused, fetchStatus, dataUpdatedAt, errorUpdatedAt, error, refetch])
  return query
}

/** A release with its timeline, asked for again whenever the environment says that it has changed. */
export function useRelease(path: string, number: number | undefined, view?: EnvironmentView) {
  const version = view?.releases.find((r) => r.number === number)?.version
  const key = ['release', path, number]
  useEffect(() => void queries.invalidateQueries({ queryKey: ['release', path, number] }), [path, number, version])
  return useQuery({ queryKey: key, enabled: number !== undefined, placeholderData: keepPreviousData, queryFn: ({ signal }) => native<Release>(`${path}/versions/${number}`, signal) })
}
