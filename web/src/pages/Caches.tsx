import { Button, Code, Table, Text, TextInput } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { useParams } from '@tanstack/react-router'
import { useState } from 'react'
import { github, queries, send } from '../api'
import { ago, size } from '../format'
import { Branch, Empty, Problem, RepositoryHead, useRepository, Waiting, WideTable } from '../parts'

interface Cache {
  id: number
  key: string
  ref: string
  size_in_bytes: number
  created_at: string
  last_accessed_at: string
}

export function Caches() {
  const { owner, repo } = useParams({ strict: false }) as { owner: string; repo: string }
  const base = `/repos/${owner}/${repo}/actions/caches`
  const [key, setKey] = useState('')
  const [error, setError] = useState<unknown>()
  const repository = useRepository(`${owner}/${repo}`)
  const list = useQuery({
    queryKey: ['caches', base, key],
    queryFn: () => github<{ total_count: number; actions_caches: Cache[] }>(`${base}?per_page=100&sort=last_accessed_at&key=${encodeURIComponent(key)}`),
    placeholderData: (before) => before,
  })
  const remove = async (c: Cache) => {
    setError(undefined)
    try {
      await send('DELETE', `${base}/${c.id}`)
    } catch (e) {
      setError(e)
    }
    await queries.invalidateQueries({ queryKey: ['caches'] })
  }
  const found = list.data?.actions_caches ?? []
  return (
    <>
      <RepositoryHead owner={owner} repo={repo} tab="caches">
        <TextInput aria-label="Caches whose key begins with" placeholder="Key begins with" value={key} onChange={(e) => setKey(e.currentTarget.value)} />
      </RepositoryHead>
      {list.isPending && <Waiting what="caches" />}
      {(error ?? list.error) ? <Problem error={error ?? list.error} /> : null}
      {list.data && found.length === 0 && (
        <Empty title={key ? 'No cache has such a key' : 'No caches yet'}>
          {!key && <>A step that keeps one makes it: <Code>uses: actions/cache@v4</Code></>}
        </Empty>
      )}
      {found.length > 0 && (
        <WideTable width={600} label="Caches">
          <Table.Thead>
            <Table.Tr>
              <Table.Th>{list.data!.total_count > found.length ? `Key (${found.length} of ${list.data!.total_count})` : 'Key'}</Table.Th>
              <Table.Th>Branch</Table.Th>
              <Table.Th>Size</Table.Th>
              <Table.Th>Used</Table.Th>
              <Table.Td />
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {found.map((c) => (
              <Table.Tr key={c.id}>
                <Table.Td><Code>{c.key}</Code></Table.Td>
                <Table.Td><Branch name={c.ref.replace(/^refs\/heads\//, '')} /></Table.Td>
                <Table.Td><Text size="sm">{size(c.size_in_bytes)}</Text></Table.Td>
                <Table.Td><Text size="sm" c="dimmed">{ago(c.last_accessed_at)}</Text></Table.Td>
                <Table.Td ta="right">
                  {repository.data?.permissions.push && <Button size="compact-xs" variant="subtle" color="red" aria-label={`Remove ${c.key}`} onClick={() => void remove(c)}>Remove</Button>}
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </WideTable>
      )}
    </>
  )
}
