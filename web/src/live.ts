// What follows the server: an environment and its releases, as they change.

import { keepPreviousData, useQuery } from '@tanstack/react-query'
import { useEffect } from 'react'
import { follow, native, queries } from './api'
import type { EnvironmentView, Release } from './release'

/** An environment as it is now. A stream tells it, at once and when it changes; why there is no stream the server is asked. */
export function useEnvironment(path: string) {
  const query = useQuery({ queryKey: ['environment', path], enabled: false, retry: false, queryFn: ({ signal }) => native<EnvironmentView>(path, signal) })
  const { refetch } = query
  useEffect(() => {
    const queryKey = ['environment', path]
    const message = async (data: string) => {
      await queries.cancelQueries({ queryKey })
      queries.setQueryData(queryKey, JSON.parse(data))
    }
    return follow(`${path}/events`, { message, lost: () => void refetch() })
  }, [path, refetch])
  return query
}

/** A release with its timeline, asked for again whenever the environment says that it has changed. */
export function useRelease(path: string, number: number | undefined, view?: EnvironmentView) {
  const version = view?.releases.find((r) => r.number === number)?.version
  const key = ['release', path, number]
  useEffect(() => void queries.invalidateQueries({ queryKey: ['release', path, number] }), [path, number, version])
  return useQuery({ queryKey: key, enabled: number !== undefined, placeholderData: keepPreviousData, queryFn: ({ signal }) => native<Release>(`${path}/versions/${number}`, signal) })
}
