import { Alert, Code, Stack, Text } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { native } from '../api'
import type { Declared } from '../release'

/** What penstock.yaml of the default branch says of environments. */
export const useDeclared = (name: string) => useQuery({ queryKey: ['declared', name], queryFn: ({ signal }) => native<Declared>(`/repos/${name}/environments`, signal) })

/** Shows who has not released yet what to write, as far as it is not written. */
export function Teach({ declared, environment, may }: { declared: Declared; environment?: string; may: boolean }) {
  const here = declared.environments.find((e) => e.name.toLowerCase() === environment?.toLowerCase())
  const e = environment ?? 'production'
  const key = /^[\w-]+$/.test(e) ? e : JSON.stringify(e)
  if (declared.mistake) return <Alert color="red" title="penstock.yaml has a mistake"><div className="command">{declared.mistake}</div></Alert>
  if (here) {
    const branches = here.branches.length > 0 && ` A push to ${here.branches.join(' or ')} does so by itself.`
    return <Text size="sm">penstock.yaml releases {here.services.join(', ')} here: {may ? 'press Release, or' : 'who may write to the repository can, by'} <Code>penstock deploy --env {here.name}</Code>.{branches}</Text>
  }
  return (
    <Stack gap="xs" ta="left" w="100%">
      <Text size="sm">
        {declared.missing ? 'penstock.yaml at the root of the repository says what is released, where to and how. The smallest that works:'
          : declared.environments.length > 0 ? `penstock.yaml has ${declared.environments.map((x) => x.name).join(', ')}, and not this environment. To release here, add:`
            : 'penstock.yaml has no environment yet. To release, add:'}
      </Text>
      <Code block className="command">
        {declared.missing && 'services:\n  web:\n    command: python3 server.py   # or image:, or build:; PORT is in its environment\n    port: 8000\n    health: /health\n'}
        {`environments:\n  ${key}:\n    hosts: [web.localhost]\n    strategy: blue-green   # or rolling, canary, recreate`}
      </Code>
      <Text size="sm">Commit it, push it, then release it here, or by</Text>
      <Code block>penstock deploy --env {key} --wait</Code>
      <Text size="sm"><Code>penstock lint</Code> checks the file, with the place of every mistake.</Text>
    </Stack>
  )
}
